"""A dense layer of 8-bit whole numbers: weights by channel, activations by a range that was seen on pictures.

x is round(x / scale) + zero in 0..255, W is round(W / scale_o) in -127..127, and their product is exact in 32 bits
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitkit.inference.engine.dense import FUSED, Dense
from vitkit.kernels import quantise
from vitkit.layers import Block
from vitkit.models import Backbone


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


# How many tokens of a layer's input are kept to try ranges on; every token counts for the largest values.
KEPT_ROWS = 512
# Which share of the largest value a range may end at: outliers are cut where that makes the whole error smaller.
CUTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass
class Seen:
    """The inputs of one dense layer: a sample of them, and every channel's largest and smallest value."""

    rows: list[Tensor] = field(default_factory=list)
    low: Tensor | None = None
    high: Tensor | None = None

    def look(self, x: Float[Tensor, "*b i"]) -> None:
        """Takes note of one input."""
        flat = x.detach().float().flatten(0, -2)
        low, high = flat.amin(0), flat.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        step = max(flat.shape[0] // 64, 1)
        if sum(part.shape[0] for part in self.rows) < KEPT_ROWS:
            self.rows.append(flat[::step].clone())

    def outside(self) -> "Seen":
        """The same, no longer bound to the inference mode in which it was seen."""
        low, high = (None if end is None else end.clone() for end in (self.low, self.high))
        return Seen([part.clone() for part in self.rows], low, high)

    @property
    def largest(self) -> Float[Tensor, " i"]:
        """Every channel's largest absolute value."""
        if self.low is None or self.high is None:
            raise ValueError("a layer saw no picture: 8-bit arithmetic needs at least one to be calibrated on")
        return torch.maximum(self.low.abs(), self.high.abs())

    def range(self, divisor: Float[Tensor, " i"] | None = None) -> Range:
        """The range with the least squared error on the sample, of inputs divided channel by channel."""
        if self.low is None or self.high is None:
            raise ValueError("a layer saw no picture: 8-bit arithmetic needs at least one to be calibrated on")
        by = torch.ones_like(self.low) if divisor is None else divisor
        sample = torch.cat(self.rows) / by
        low, high = min(float((self.low / by).min()), 0.0), max(float((self.high / by).max()), 1e-6)
        if not math.isfinite(high - low):
            raise RuntimeError("a layer's input is no number")
        # One end after the other: where an activation has a floor, cutting it costs more than it gives.
        high = min((high * cut for cut in CUTS), key=lambda end: _error(sample, _range(low, end)))
        low = min((low * cut for cut in CUTS), key=lambda end: _error(sample, _range(end, high)))
        return _range(low, high)


def watch(model: Backbone) -> dict[str, Seen]:
    """Makes every dense layer of the blocks of a fused model take note of its inputs, by name."""
    notes = {}
    for number, block in enumerate(model.blocks):
        for name, module in block.named_modules(prefix=f"blocks.{number}"):
            if isinstance(module, Dense):
                notes[name] = Seen()
                module.watch = notes[name].look
    return notes


def smooth(block: Block, prefix: str, seen: Mapping[str, Seen], strength: float = 0.5) -> dict[str, Tensor]:
    """Moves the size of large channels from the inputs of a block's matrices into their weights; gives the divisors.

    The factor of a channel is its largest input to the power of `strength`, over its largest weight to the rest (Xiao
    et al. 2023, "SmoothQuant", equation 4). The LayerNorm before takes the division, and for the projection the values
    do, so that the block computes what it did. Changes the block.
    """
    divisors: dict[str, Tensor] = {}
    mlp = block.mlp.fc1
    pairs = [("attn.query" if f"{prefix}.attn.query" in seen else "attn.qkv", block.norm1, block.attn.qkv)]
    pairs += [("mlp.fc1", block.norm2, mlp)] if isinstance(mlp, nn.Linear) else []
    for name, norm, linear in pairs:
        by = _divisor(seen[f"{prefix}.{name}"].largest, linear.weight, strength)
        norm.weight.div_(by)
        norm.bias.div_(by)
        linear.weight.mul_(by)
        # The same tokens go into the other half of a matrix that was split: keys and values, the value of a gate.
        for other in (name, "attn.key_value" if name == "attn.query" else "mlp.value" if name == "mlp.fc1" else name):
            divisors[f"{prefix}.{other}"] = by
    by = _divisor(seen[f"{prefix}.attn.proj"].largest, block.attn.proj.weight, strength)
    values = slice(2 * by.shape[0], None)
    block.attn.qkv.weight[values].div_(by[:, None])
    if block.attn.v_bias is not None:
        block.attn.v_bias.div_(by)
    elif block.attn.qkv.bias is not None:
        block.attn.qkv.bias[values].div_(by)
    block.attn.proj.weight.mul_(by)
    divisors[f"{prefix}.attn.proj"] = by
    return divisors


def _divisor(largest: Float[Tensor, " i"], weight: Float[Tensor, "o i"], strength: float) -> Float[Tensor, " i"]:
    by = largest.clamp(min=1e-5) ** strength / weight.abs().amax(dim=0).clamp(min=1e-5) ** (1 - strength)
    # Powers of two change no digit of a weight or a bias, only its exponent.
    return torch.exp2(by.clamp(1e-4, 1e4).log2().round())


def _error(sample: Tensor, through: Range) -> float:
    return float(((through.whole(sample).float() - through.zero) * through.scale - sample).square().mean())


def _range(low: float, high: float) -> Range:
    scale = (high - low) / 255
    return Range(scale=scale, zero=round(-low / scale))
