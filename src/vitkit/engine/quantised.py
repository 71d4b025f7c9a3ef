"""A dense layer of 8-bit whole numbers: weights by channel, activations by a range that was seen on pictures.

x is round(x / scale) + zero in 0..255, W is round(W / scale_o) in -127..127, and their product is exact in 32 bits
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference").
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitkit.engine.dense import FUSED
from vitkit.kernels import quantise


@dataclass(frozen=True)
class Range:
    """How a tensor becomes 0..255: x is (whole - zero) * scale."""

    scale: float
    zero: int

    def whole(self, x: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
        """The nearest of the 256 values, the ends for what lies beyond them."""
        if quantise.available() and quantise.takes(x):
            return quantise.quantise(x, self.scale, self.zero)
        # Truncation after adding a half rounds, where nothing is negative.
        return x.float().mul(1 / self.scale).add_(self.zero + 0.5).clamp_(0, 255).to(torch.uint8)


class QuantisedDense(nn.Module):
    """act(x W^T + b) + residual in 8-bit products; what comes in is made whole numbers unless it is already.

    `to` is the range of what comes out where the next layer wants whole numbers; otherwise it is of type `dtype`.
    """

    def __init__(
        self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, taken: Range, dtype: torch.dtype,
        act: str = "", to: Range | None = None,
    ):  # fmt: skip
        super().__init__()
        self.taken = taken
        self.to_range = to
        self.dtype = dtype
        self.act = act
        weight = weight.detach().float()
        self.scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        whole = (weight / self.scales[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        self.bias = None if bias is None else bias.detach().float()

    def forward(
        self, x: Tensor, *, residual: Float[Tensor, "*b o"] | None = None, factor: Float[Tensor, "*b o"] | None = None
    ) -> Tensor:
        """The product, with an activation or a residual, or times a factor."""
        whole = (x if x.dtype == torch.uint8 else self.taken.whole(x)).contiguous()
        given = (whole, self.taken.scale, self.taken.zero, self.weight, self.scales, self.zeros)
        if residual is not None:
            other = residual.to(self.dtype).contiguous()
            return torch.ops.onednn.qlinear_pointwise.binary(
                *given, other, self.bias, 1.0, 0, self.dtype, 1.0, 0, "add", 1.0, "none", [], ""
            )
        name, variant = FUSED[self.act]
        out, dtype = (Range(1.0, 0), self.dtype) if self.to_range is None else (self.to_range, torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(*given, self.bias, out.scale, out.zero, dtype, name, [], variant)
        return y if factor is None else y * factor


class QuantisingNorm(nn.Module):
    """A LayerNorm that gives whole numbers of 8 bits: what the 8-bit layer after it takes."""

    def __init__(self, norm: nn.LayerNorm, to: Range):
        super().__init__()
        self.norm = norm
        self.to_range = to

    def forward(self, x: Float[Tensor, "*b d"]) -> UInt8[Tensor, "*b d"]:
        """The normalised numbers, rounded."""
        return quantise.quantise(x, self.to_range.scale, self.to_range.zero, self.norm)


def quantising(norm: nn.Module, *layers: nn.Module) -> nn.Module:
    """The norm before these layers, with their rounding in it where they agree on one and the kernel is there."""
    ranges = {layer.taken if isinstance(layer, QuantisedDense) else None for layer in layers}
    (to, *others) = ranges
    if to is None or others or not isinstance(norm, nn.LayerNorm) or not quantise.available():
        return norm
    return QuantisingNorm(norm, to) if quantise.normalises(norm, norm.normalized_shape[-1]) else norm
