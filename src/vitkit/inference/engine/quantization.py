"""int8 dense layers. Weights are quantized per output channel and inputs per tensor.

Inputs are round(x / scale) + zero in 0..255, weights round(W / scale_o) in -127..127, and products are exact in int32
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitkit.inference.engine.dense import FUSED, Dense
from vitkit.kernels import quantize
from vitkit.layers import Block
from vitkit.models import Backbone

# Number of input tokens that are stored to search for the best range; minimum and maximum use all tokens.
SAMPLED_ROWS = 512
# Fractions of the extreme values to try as ends of a range: outliers are clamped if that reduces the total error.
CUTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


@dataclass(frozen=True)
class Range:
    """Affine quantization to integers from 0 to 255. The integer q represents the value (q - zero) * scale."""

    scale: float
    zero: int

    def quantize(self, x: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
        """Quantizes values to the nearest integer from 0 to 255."""
        if quantize.available() and quantize.supports(x):
            return quantize.quantize(x, self.scale, self.zero)
        # Adding 0.5 and truncating rounds nonnegative numbers.
        return x.float().mul(1 / self.scale).add_(self.zero + 0.5).clamp_(0, 255).to(torch.uint8)


class QuantizedDense(nn.Module):
    """A dense layer with int8 products: act(x W^T + b) + residual. Inputs that are not uint8 are quantized first.

    `taken` is the range of the input. With `to`, the range of the next layer, the output is uint8, otherwise `dtype`.
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
        quantized = (weight / self.scales[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self.zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        self.bias = None if bias is None else bias.detach().float()

    def forward(
        self, x: Tensor, *, residual: Float[Tensor, "*b o"] | None = None, factor: Float[Tensor, "*b o"] | None = None
    ) -> Tensor:
        """Returns the output of the layer, plus `residual` or times `factor`, if one of them is given."""
        quantized = (x if x.dtype == torch.uint8 else self.taken.quantize(x)).contiguous()
        operands = (quantized, self.taken.scale, self.taken.zero, self.weight, self.scales, self.zeros)
        if residual is not None:
            other = residual.to(self.dtype).contiguous()
            return torch.ops.onednn.qlinear_pointwise.binary(
                *operands, other, self.bias, 1.0, 0, self.dtype, 1.0, 0, "add", 1.0, "none", [], ""
            )
        name, variant = FUSED[self.act]
        out, dtype = (Range(1.0, 0), self.dtype) if self.to_range is None else (self.to_range, torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(*operands, self.bias, out.scale, out.zero, dtype, name, [], variant)
        return y if factor is None else y * factor


class QuantizingNorm(nn.Module):
    """A LayerNorm whose output is quantized to uint8 for the int8 layers that follow."""

    def __init__(self, norm: nn.LayerNorm, to: Range):
        super().__init__()
        self.norm = norm
        self.to_range = to

    def forward(self, x: Float[Tensor, "*b d"]) -> UInt8[Tensor, "*b d"]:
        """Returns the normalized tokens, quantized to uint8."""
        return quantize.quantize(x, self.to_range.scale, self.to_range.zero, self.norm)


def quantizing(norm: nn.Module, *layers: nn.Module) -> nn.Module:
    """Returns the norm that precedes the given layers, fused with the quantization of their input if possible."""
    ranges = {layer.taken if isinstance(layer, QuantizedDense) else None for layer in layers}
    (to, *others) = ranges
    if to is None or others or not isinstance(norm, nn.LayerNorm) or not quantize.available():
        return norm
    return QuantizingNorm(norm, to) if quantize.supports_norm(norm, norm.normalized_shape[-1]) else norm


@dataclass
class InputObserver:
    """Statistics of a dense layer's inputs: sampled rows, and the minimum and maximum per channel."""

    rows: list[Tensor] = field(default_factory=list)
    low: Tensor | None = None
    high: Tensor | None = None

    def observe(self, x: Float[Tensor, "*b i"]) -> None:
        """Adds the input of one forward pass to the statistics."""
        flat = x.detach().float().flatten(0, -2)
        low, high = flat.amin(0), flat.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        step = max(flat.shape[0] // 64, 1)
        if sum(part.shape[0] for part in self.rows) < SAMPLED_ROWS:
            self.rows.append(flat[::step].clone())

    def copy(self) -> "InputObserver":
        """Returns a copy of the statistics. A copy made outside of inference mode contains no inference tensors."""
        low, high = (None if end is None else end.clone() for end in (self.low, self.high))
        return InputObserver([part.clone() for part in self.rows], low, high)

    @property
    def largest(self) -> Float[Tensor, " i"]:
        """The largest absolute value of each input channel."""
        if self.low is None or self.high is None:
            raise ValueError("an int8 layer has no calibration data; calibrate it with at least one image")
        return torch.maximum(self.low.abs(), self.high.abs())

    def range(self, divisor: Float[Tensor, " i"] | None = None) -> Range:
        """Returns the range with the smallest squared error on the sampled inputs after division by `divisor`."""
        if self.low is None or self.high is None:
            raise ValueError("an int8 layer has no calibration data; calibrate it with at least one image")
        by = torch.ones_like(self.low) if divisor is None else divisor
        sample = torch.cat(self.rows) / by
        low, high = min(float((self.low / by).min()), 0.0), max(float((self.high / by).max()), 1e-6)
        if not math.isfinite(high - low):
            raise RuntimeError("the input of an int8 layer contains NaN or infinite values; use float32")
        # Each end on its own: activations such as GELU have a lower bound, which should not be clamped.
        high = min((high * cut for cut in CUTS), key=lambda end: _error(sample, _range(low, end)))
        low = min((low * cut for cut in CUTS), key=lambda end: _error(sample, _range(end, high)))
        return _range(low, high)


def observe(model: Backbone) -> dict[str, InputObserver]:
    """Adds an observer to each dense layer of a fused model. Returns the observers by layer name."""
    observers = {}
    for number, block in enumerate(model.blocks):
        for name, module in block.named_modules(prefix=f"blocks.{number}"):
            if isinstance(module, Dense):
                observers[name] = InputObserver()
                module.observer = observers[name].observe
    return observers


def smooth(
    block: Block, prefix: str, observers: Mapping[str, InputObserver], strength: float = 0.5
) -> dict[str, Tensor]:
    """Scales large input channels down and their weights up, in place (SmoothQuant). Returns the divisors by layer.

    The divisor of a channel is max|x|^strength / max|w|^(1 - strength) (Xiao et al. 2023, "SmoothQuant", equation 4).
    It is folded into the LayerNorm before the layer, for the projection into the values, so that the outputs of the
    block do not change.
    """
    divisors: dict[str, Tensor] = {}
    mlp = block.mlp.fc1
    pairs = [("attn.query" if f"{prefix}.attn.query" in observers else "attn.qkv", block.norm1, block.attn.qkv)]
    pairs += [("mlp.fc1", block.norm2, mlp)] if isinstance(mlp, nn.Linear) else []
    for name, norm, linear in pairs:
        by = _divisor(observers[f"{prefix}.{name}"].largest, linear.weight, strength)
        norm.weight.div_(by)
        norm.bias.div_(by)
        linear.weight.mul_(by)
        # The other part of a split matrix has the same input: keys and values, the value of a SwiGLU.
        for other in (name, "attn.key_value" if name == "attn.query" else "mlp.value" if name == "mlp.fc1" else name):
            divisors[f"{prefix}.{other}"] = by
    by = _divisor(observers[f"{prefix}.attn.proj"].largest, block.attn.proj.weight, strength)
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
    # Powers of two change exponents only: scaled weights are exact.
    return torch.exp2(by.clamp(1e-4, 1e4).log2().round())


def _error(sample: Tensor, to: Range) -> float:
    return float(((to.quantize(sample).float() - to.zero) * to.scale - sample).square().mean())


def _range(low: float, high: float) -> Range:
    scale = (high - low) / 255
    return Range(scale=scale, zero=round(-low / scale))
