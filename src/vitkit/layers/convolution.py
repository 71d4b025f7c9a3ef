"""Convolutions as in Google's ResNets: TensorFlow's SAME padding, and standardised weights."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Padding = Literal["same", "symmetric"]
EpsilonOn = Literal["std", "variance"]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """How much TensorFlow's SAME puts before and after a side of `size`, so that ceil(size / stride) come out.

    An odd amount puts the one more after; PyTorch's symmetric padding would shift every feature.
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Float[Tensor, "b c rows columns"], kernel: int, stride: int, value: float = 0.0
) -> Float[Tensor, "b c padded_rows padded_columns"]:
    """`x` with the SAME padding of a square `kernel` around it, filled with `value`."""
    top, bottom = same_padding(x.shape[2], kernel, stride)
    left, right = same_padding(x.shape[3], kernel, stride)
    return F.pad(x, (left, right, top, bottom), value=value) if top + bottom + left + right else x


class StdConv(nn.Conv2d):
    """A convolution without bias whose filters are standardised on the fly (Qiao et al. 2019, "Micro-Batch Training").

    The stored weights are raw. Each filter has its mean taken off and is divided by its deviation: std + `eps` where
    `eps_on` is "std" (the stem of the hybrids), sqrt(variance + eps) where it is "variance" (BiT, timm). `padding` is
    TensorFlow's SAME, or half the kernel on every side.
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
        """The convolved map."""
        x = pad_same(input, self.kernel_size[0], self.stride[0]) if self.same else input
        return F.conv2d(x, self.standardised(), stride=self.stride, padding=self.padding)

    def standardised(self) -> Float[Tensor, "d c kernel kernel"]:
        """The filters that `forward` uses; the statistics are float32 where the weights are narrower."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        deviation = variance.sqrt() + self.eps if self.eps_on == "std" else (variance + self.eps).sqrt()
        return ((weight - mean) / deviation).to(self.weight.dtype)


class MaxPoolSame(nn.Module):
    """The largest value under a square window with SAME padding; the padding never wins."""

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b c new_rows new_columns"]:
        """The pooled map."""
        return F.max_pool2d(pad_same(x, self.kernel, self.stride, value=-math.inf), self.kernel, self.stride)


class GroupNorm(nn.GroupNorm):
    """GroupNorm that knows the scale it starts with: 0 for the last norm of a residual branch, else 1."""

    def __init__(self, num_groups: int, width: int, *, eps: float, initial: float = 1.0):
        super().__init__(num_groups, width, eps=eps)
        self.initial = initial


class BatchNorm(nn.Module):
    """BatchNorm over dimension 1 of a tensor with any number after it, in training from the batch at hand.

    Without the counter of batches that torch's own keeps beside its statistics: a whole number among the weights, of
    use only for a cumulative average. `initial` is the scale it starts with.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, *, eps: float = 1e-5, momentum: float = 0.1, initial: float = 1.0):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.initial = initial
        self.weight = nn.Parameter(torch.full((width,), initial))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Float[Tensor, "b c *n"]) -> Float[Tensor, "b c *n"]:
        """`x` with mean 0 and variance 1 in each channel, then scaled and shifted."""
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)
