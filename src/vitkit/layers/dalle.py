"""The encoder of DALL-E's discrete autoencoder: pictures to one of 8192 visual words for every 8x8 pixels.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", appendix A.2. BEiT learns to guess its words. Parameter names
are those of OpenAI's published file.
"""

import math
from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, empty, nn

LOGIT_LAPLACE_EPS = 0.1  # pixels are mapped away from 0 and 1
STRIDE = 8


class WordConv(nn.Module):
    """A convolution that keeps the size of its map; parameters are called `w` and `b` as in the file."""

    def __init__(self, inner: int, outer: int, kernel: int):
        super().__init__()
        self.w = nn.Parameter(empty(outer, inner, kernel, kernel).normal_(std=1 / math.sqrt(inner * kernel**2)))
        self.b = nn.Parameter(empty(outer).zero_())

    def forward(self, x: Float[Tensor, "b inner r c"]) -> Float[Tensor, "b outer r c"]:
        """The map of `outer` channels."""
        return F.conv2d(x, self.w, self.b, padding=(self.w.shape[2] - 1) // 2)


class WordBlock(nn.Module):
    """x, or its 1x1 convolution where widths differ, plus `gain` times four convolutions, each behind a ReLU."""

    def __init__(self, inner: int, outer: int, gain: float):
        super().__init__()
        hidden = outer // 4
        self.gain = gain
        self.id_path = nn.Identity() if inner == outer else WordConv(inner, outer, 1)
        sizes = ((inner, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, outer, 1))
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        for number, size in enumerate(sizes, start=1):
            steps[f"relu_{number}"] = nn.ReLU()
            steps[f"conv_{number}"] = WordConv(*size)
        self.res_path = nn.Sequential(steps)

    def forward(self, x: Float[Tensor, "b inner r c"]) -> Float[Tensor, "b outer r c"]:
        """The map after the block."""
        return self.id_path(x) + self.gain * self.res_path(x)


class WordEncoder(nn.Module):
    """Four groups of residual blocks, twice as wide each, the first three halved by a maximum; then logits of words.

    No norms; residuals are scaled by 1 / (number of blocks)^2. The published one has the defaults.
    """

    def __init__(self, *, hidden: int = 256, words: int = 8192, channels: int = 3, groups: int = 4, blocks: int = 2):
        super().__init__()
        self.words = words
        gain = 1 / (groups * blocks) ** 2
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=WordConv(channels, hidden, 7))
        inner = hidden
        for group in range(1, groups + 1):
            outer = hidden * 2 ** (group - 1)
            steps: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, blocks + 1):
                steps[f"block_{number}"] = WordBlock(inner, outer, gain)
                inner = outer
            if group < groups:
                steps["pool"] = nn.MaxPool2d(2)
            parts[f"group_{group}"] = nn.Sequential(steps)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=WordConv(inner, words, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b words r s"]:
        """The logits of the words of pictures in 0..1, whose sides are multiples of 8."""
        return self.blocks((1 - 2 * LOGIT_LAPLACE_EPS) * pixels + LOGIT_LAPLACE_EPS)

    def read(self, pixels: Float[Tensor, "b c height width"]) -> Int[Tensor, "b r s"]:
        """The likeliest word of every 8x8 pixels."""
        return self(pixels).argmax(dim=1)
