"""ResNet layers: weight-standardized convolutions with SAME padding, stems and residual blocks."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.activations import activation
from vitkit.layers.channels import adapt_input_convolution, as_input

EpsilonOn = Literal["std", "variance"]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the SAME padding of TensorFlow before and after an axis, for an output size of ceil(size / stride).

    An odd total has one more after the axis; PyTorch's symmetric padding would shift every feature.
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Float[Tensor, "b c rows columns"], kernel: int, stride: int, value: float = 0.0
) -> Float[Tensor, "b c padded_rows padded_columns"]:
    """Applies the SAME padding of a square `kernel` to `x`, filled with `value`."""
    top, bottom = same_padding(x.shape[2], kernel, stride)
    left, right = same_padding(x.shape[3], kernel, stride)
    return F.pad(x, (left, right, top, bottom), value=value) if top + bottom + left + right else x


class StdConv(nn.Conv2d):
    """Convolution with weight standardization and without bias (Qiao et al. 2019, "Micro-Batch Training").

    The stored weights are not standardized. `forward` subtracts the mean of each filter and divides by its deviation:
    std + `eps` with `eps_on` "std" (the stem of the hybrids), sqrt(variance + eps) with "variance" (BiT, timm). The
    padding is TensorFlow's SAME, or half the kernel on every side if `same` is False.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel: int,
        stride: int = 1,
        *,
        same: bool = True,
        eps: float = 1e-5,
        eps_on: EpsilonOn = "std",
    ):
        super().__init__(in_width, out_width, kernel, stride=stride, padding=0 if same else kernel // 2, bias=False)
        self.same = same
        self.eps = eps
        self.eps_on = eps_on

    def forward(self, input: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d new_rows new_columns"]:  # noqa: A002
        """Returns the convolution of `input` with the standardized weight."""
        x = pad_same(input, self.kernel_size[0], self.stride[0]) if self.same else input
        return F.conv2d(x, self.standardized_weight(), stride=self.stride, padding=self.padding)

    def standardized_weight(self) -> Float[Tensor, "d c kernel kernel"]:
        """Returns the standardized weight. Its mean and variance are computed in at least float32."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        deviation = variance.sqrt() + self.eps if self.eps_on == "std" else (variance + self.eps).sqrt()
        return ((weight - mean) / deviation).to(self.weight.dtype)


def plain_conv(in_width: int, out_width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Returns a convolution without bias, with a padding of `kernel // 2` on every side."""
    return nn.Conv2d(in_width, out_width, kernel, stride=stride, padding=kernel // 2, bias=False)


class MaxPoolSame(nn.Module):
    """Max-pooling over a square window with SAME padding. The padding value is minus infinity."""

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b c new_rows new_columns"]:
        """Returns the feature map after max-pooling."""
        return F.max_pool2d(pad_same(x, self.kernel, self.stride, value=-math.inf), self.kernel, self.stride)


class GroupNorm(nn.GroupNorm):
    """GroupNorm with an initial scale, which is 0 for the last norm of a residual branch and otherwise 1."""

    def __init__(self, num_groups: int, width: int, *, eps: float, initial: float = 1.0):
        super().__init__(num_groups, width, eps=eps)
        self.initial = initial


# Called as conv(in_width, out_width, kernel, stride) and norm(width), the latter with `initial=0.0` for a zero scale.
Conv = Callable[..., nn.Module]
Norm = Callable[..., nn.Module]

EXPANSION = 4


class ResNetStem(nn.Module):
    """Stem of a ResNet: 7x7 convolution, norm and activation (only if `norm` is given), and max-pooling.

    Convolution and pooling have stride 2. BiT has no norm and no activation here, and without SAME padding its map is
    padded with zeros before the pooling; such a zero is the maximum of negative values. Floating-point images get the
    dtype of the weights. Raises ValueError for a wrong number of channels.
    """

    def __init__(
        self, channels: int, width: int, *, conv: Conv, norm: Norm | None, same: bool = True, act: str = "relu"
    ):
        super().__init__()
        self.channels = channels
        self.conv = conv(channels, width, 7, 2)
        self.norm = nn.Identity() if norm is None else norm(width)
        self.act = nn.Identity() if norm is None else activation(act)
        if same:
            self.pool = MaxPoolSame(3, 2)
        elif norm is None:
            self.pool = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2))
        else:
            self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """Returns a feature map with a quarter of the height and width of the images."""
        x = as_input(images, self.channels, self.conv)
        return self.pool(self.act(self.norm(self.conv(x))))

    def adapt_channels(self, channels: int) -> None:
        """Adapts the RGB weights to another number of channels with `channels.adapt_input_weight`."""
        adapt_input_convolution(self.conv, channels)
        self.channels = channels


class PostBottleneck(nn.Module):
    """Bottleneck block with norms after the convolutions (He et al. 2016a). The 3x3 convolution has the stride.

    With `stride_first` the first 1x1 convolution has it, as in the original ResNet; with the 3x3 one it is the variant
    "v1.5". `out_width` is by default four times `width`, the number of channels of the 3x3 convolution. `activations`
    are that after the first two convolutions and that after the sum. The initial scale of the last norm is zero, so
    that the bottleneck starts as its shortcut.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        *,
        conv: Conv,
        norm: Norm,
        out_width: int | None = None,
        stride_first: bool = False,
        activations: tuple[str, str] = ("relu", "relu"),
    ):
        super().__init__()
        out_width = EXPANSION * width if out_width is None else out_width
        self.conv1 = conv(in_width, width, 1, stride if stride_first else 1)
        self.norm1 = norm(width)
        self.conv2 = conv(width, width, 3, 1 if stride_first else stride)
        self.norm2 = norm(width)
        self.conv3 = conv(width, out_width, 1)
        self.norm3 = norm(out_width, initial=0.0)
        self.downsample = projection(in_width, out_width, stride, conv=conv, norm=norm)
        self.act1, self.act2 = map(activation, activations)

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d new_rows new_columns"]:
        """Returns the activation of the sum of the shortcut and the residual branch."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act1(self.norm2(self.conv2(y)))
        return self.act2(self.downsample(x) + self.norm3(self.conv3(y)))


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions, each followed by a norm (He et al. 2016a). The first has the stride.

    `activations` are that after the first convolution and that after the sum. The initial scale of the last norm is
    zero, so that the block starts as its shortcut.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        *,
        conv: Conv,
        norm: Norm,
        activations: tuple[str, str] = ("relu", "relu"),
    ):
        super().__init__()
        self.conv1 = conv(in_width, width, 3, stride)
        self.norm1 = norm(width)
        self.conv2 = conv(width, width, 3)
        self.norm2 = norm(width, initial=0.0)
        self.downsample = projection(in_width, width, stride, conv=conv, norm=norm)
        self.act1, self.act2 = map(activation, activations)

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b d new_rows new_columns"]:
        """Returns the activation of the sum of the shortcut and the residual branch."""
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.downsample(x) + self.norm2(self.conv2(y)))


def projection(in_width: int, out_width: int, stride: int, *, conv: Conv, norm: Norm) -> nn.Module:
    """Returns the shortcut of a post-activation block: the identity, or a 1x1 convolution and a norm if needed."""
    if in_width == out_width and stride == 1:
        return nn.Identity()
    return nn.Sequential(OrderedDict(conv=conv(in_width, out_width, 1, stride), norm=norm(out_width)))


class PreBottleneck(nn.Module):
    """Bottleneck block with norms before the convolutions (He et al. 2016b). The 3x3 convolution has the stride.

    The input of a projected shortcut is the normalized one; the shortcut has no norm.
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
        """Returns the sum of the shortcut and the residual branch."""
        y = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = F.relu(self.norm2(self.conv1(y)))
        y = F.relu(self.norm3(self.conv2(y)))
        return shortcut + self.conv3(y)


def resnet_stages(
    stem_width: int, depths: tuple[int, ...], *, bottleneck: type[nn.Module], conv: Conv, norm: Norm
) -> nn.Sequential:
    """Builds the stages of a ResNet. All but the first halve the feature map and double the number of channels.

    Blocks are named `stages.N.blocks.M`. The input has `stem_width` channels, the output `resnet_width(stem_width,
    depths)`.
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
    """Returns the number of output channels of a ResNet with the given stem width and depths."""
    return EXPANSION * stem_width * 2 ** (len(depths) - 1) if depths else stem_width


def resnet_stride(depths: tuple[int, ...]) -> int:
    """Returns the stride of a ResNet's last feature map in pixels: 4 for one stage, doubled by each further stage."""
    return 4 * 2 ** max(len(depths) - 1, 0)
