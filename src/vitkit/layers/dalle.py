"""Encoder of DALL-E's discrete VAE, which maps each 8x8 square of pixels to one of 8192 visual tokens.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", appendix A.2. Its tokens are the prediction targets of BEiT.
Parameter names are those of OpenAI's published file.
"""

import math
from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, empty, nn

LOGIT_LAPLACE_EPS = 0.1  # pixel values are mapped from [0, 1] to [0.1, 0.9]
STRIDE = 8


class DalleConv(nn.Module):
    """Convolution that keeps height and width. Its parameters are named `w` and `b`, as in DALL-E's checkpoints."""

    def __init__(self, inner: int, outer: int, kernel: int):
        super().__init__()
        self.w = nn.Parameter(empty(outer, inner, kernel, kernel).normal_(std=1 / math.sqrt(inner * kernel**2)))
        self.b = nn.Parameter(empty(outer).zero_())

    def forward(self, x: Float[Tensor, "b inner r c"]) -> Float[Tensor, "b outer r c"]:
        """Returns a feature map with `outer` channels."""
        return F.conv2d(x, self.w, self.b, padding=(self.w.shape[2] - 1) // 2)


class DalleBlock(nn.Module):
    """Residual block of four ReLU-convolution layers, whose output is multiplied by `gain`.

    The shortcut is a 1x1 convolution if the numbers of channels differ.
    """

    def __init__(self, inner: int, outer: int, gain: float):
        super().__init__()
        hidden = outer // 4
        self.gain = gain
        self.id_path = nn.Identity() if inner == outer else DalleConv(inner, outer, 1)
        sizes = ((inner, hidden, 3), (hidden, hidden, 3), (hidden, hidden, 3), (hidden, outer, 1))
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        for number, size in enumerate(sizes, start=1):
            steps[f"relu_{number}"] = nn.ReLU()
            steps[f"conv_{number}"] = DalleConv(*size)
        self.res_path = nn.Sequential(steps)

    def forward(self, x: Float[Tensor, "b inner r c"]) -> Float[Tensor, "b outer r c"]:
        """Returns the sum of the shortcut and the residual branch."""
        return self.id_path(x) + self.gain * self.res_path(x)


class DalleEncoder(nn.Module):
    """DALL-E's encoder: groups of residual blocks, max-pooling between the groups, and a layer for token logits.

    Each group doubles the width; each but the last halves the map. There are no norms; residual branches are scaled by
    1 / (number of blocks)^2. The defaults are those of the published encoder; `vocabulary` is the number of tokens.
    """

    def __init__(
        self, *, hidden: int = 256, vocabulary: int = 8192, channels: int = 3, groups: int = 4, blocks: int = 2
    ):
        super().__init__()
        self.vocabulary = vocabulary
        gain = 1 / (groups * blocks) ** 2
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=DalleConv(channels, hidden, 7))
        inner = hidden
        for group in range(1, groups + 1):
            outer = hidden * 2 ** (group - 1)
            steps: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, blocks + 1):
                steps[f"block_{number}"] = DalleBlock(inner, outer, gain)
                inner = outer
            if group < groups:
                steps["pool"] = nn.MaxPool2d(2)
            parts[f"group_{group}"] = nn.Sequential(steps)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=DalleConv(inner, vocabulary, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, pixels: Float[Tensor, "b c height width"]) -> Float[Tensor, "b vocabulary r s"]:
        """Returns the logits of the visual tokens. Pixels must be in [0, 1], and image sides multiples of 8."""
        return self.blocks((1 - 2 * LOGIT_LAPLACE_EPS) * pixels + LOGIT_LAPLACE_EPS)

    def tokenize(self, pixels: Float[Tensor, "b c height width"]) -> Int[Tensor, "b r s"]:
        """Returns the most likely visual token for every square of 8x8 pixels."""
        return self(pixels).argmax(dim=1)
