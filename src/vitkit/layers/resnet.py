"""The parts of Google's ResNets: BiT (Kolesnikov et al. 2020) and the stem of the hybrids (ViT paper, section 3.1).

A stem, then stages of bottlenecks in one of two orders: post-activation (the hybrids) or pre-activation (BiT). Which
convolution and which norm they are made of is handed to them, so that padding and epsilons are written down once.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.convolution import MaxPoolSame

# Called as conv(in_width, out_width, kernel, stride) and norm(width), the latter with `initial=` where it starts at 0.
Conv = Callable[..., nn.Module]
Norm = Callable[..., nn.Module]

EXPANSION = 4


class ResNetStem(nn.Module):
    """The root: a 7x7 convolution of stride 2, norm and ReLU in the post-activation order, max-pooling of stride 2.

    Without a norm it is BiT's: the map is padded with zeros before pooling, and since values may be negative there, a
    zero can win. Raises ValueError for a wrong number of channels.
    """

    def __init__(self, channels: int, width: int, *, conv: Conv, norm: Norm | None, same: bool = True):
        super().__init__()
        self.channels = channels
        self.conv = conv(channels, width, 7, 2)
        self.norm = nn.Identity() if norm is None else norm(width)
        self.act = nn.Identity() if norm is None else nn.ReLU()
        self.pool = MaxPoolSame(3, 2) if same else nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2))

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """A map of a quarter of the height and width."""
        if images.shape[1] != self.channels:
            raise ValueError(f"the model takes images with {self.channels} channels, these have {images.shape[1]}")
        return self.pool(self.act(self.norm(self.conv(images))))


class PostBottleneck(nn.Module):
    """The bottleneck with its norms after the convolutions (He et al. 2016a), the stride on the 3x3 one.

    The last norm starts at zero, so that the unit starts as its shortcut.
    """

    def __init__(self, in_width: int, width: int, stride: int, *, conv: Conv, norm: Norm):
        super().__init__()
        out_width = EXPANSION * width
        self.conv1 = conv(in_width, width, 1)
        self.norm1 = norm(width)
        self.conv2 = conv(width, width, 3, stride)
        self.norm2 = norm(width)
        self.conv3 = conv(width, out_width, 1)
        self.norm3 = norm(out_width, initial=0.0)
        self.downsample = (
            nn.Sequential(OrderedDict(conv=conv(in_width, out_width, 1, stride), norm=norm(out_width)))
            if in_width != out_width or stride != 1
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d new_rows new_columns"]:
        """ReLU of the shortcut and the branch."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.downsample(x) + self.norm3(self.conv3(y)))


class PreBottleneck(nn.Module):
    """The bottleneck with its norms before the convolutions (He et al. 2016b), the stride on the 3x3 one.

    A projected shortcut reads the normalised input and has no norm of its own.
    """

    def __init__(self, in_width: int, width: int, stride: int, *, conv: Conv, norm: Norm):
        super().__init__()
        out_width = EXPANSION * width
        self.norm1 = norm(in_width)
        self.conv1 = conv(in_width, width, 1)
        self.norm2 = norm(width)
        self.conv2 = conv(width, width, 3, stride)
        self.norm3 = norm(width)
        self.conv3 = conv(width, out_width, 1)
        projected = in_width != out_width or stride != 1
        self.downsample = nn.Sequential(OrderedDict(conv=conv(in_width, out_width, 1, stride))) if projected else None

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d new_rows new_columns"]:
        """The sum of the shortcut and the branch."""
        y = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = F.relu(self.norm2(self.conv1(y)))
        y = F.relu(self.norm3(self.conv2(y)))
        return shortcut + self.conv3(y)


def resnet_stages(
    stem_width: int, depths: tuple[int, ...], *, bottleneck: type[nn.Module], conv: Conv, norm: Norm
) -> nn.Sequential:
    """Stages of bottlenecks, `stages.N.blocks.M`: each stage but the first halves the map and doubles the width.

    They take a map of `stem_width` and give one of `resnet_width(stem_width, depths)`.
    """
    stages = []
    in_width = stem_width
    for stage, depth in enumerate(depths):
        width = stem_width * 2**stage
        blocks = []
        for block in range(depth):
            stride = 2 if block == 0 and stage > 0 else 1
            blocks.append(bottleneck(in_width, width, stride, conv=conv, norm=norm))
            in_width = EXPANSION * width
        stages.append(nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks))))
    return nn.Sequential(*stages)


def resnet_width(stem_width: int, depths: tuple[int, ...]) -> int:
    """How many channels come out of a stem and the stages after it."""
    return EXPANSION * stem_width * 2 ** (len(depths) - 1) if depths else stem_width


def resnet_stride(depths: tuple[int, ...]) -> int:
    """How many pixels a side of one cell of the map that comes out spans: 4 after the stem and the first stage."""
    return 4 * 2 ** max(len(depths) - 1, 0)
