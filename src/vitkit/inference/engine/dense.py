"""Dense layers for inference: with packed weights, for patch projection, and with float8 matrix products."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.inference.engine.capabilities import can_pack
from vitkit.layers.activations import CORE, activation_name

# oneDNN's names and variants of the activations that it fuses into a product; "" is none.
FUSED = {"": ("none", "")} | {name: each.onednn for name, each in CORE.items() if each.onednn is not None}
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"": lambda x: x} | {
    name: each.function for name, each in CORE.items() if each.function is not None
}
# Number of rows for which the layout of packed weights is optimized: eight images of 14x14 patches.
ROWS_EXPECTED = 8 * 197
FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = torch.finfo(FLOAT8).max
FLOAT8_MULTIPLE = 16  # float8 products need weights whose rows and columns are multiples of it


def fused_name(module: nn.Module) -> str | None:
    """Returns the name of an activation function that can be fused, or None if it cannot be fused."""
    if type(module) is nn.Identity:
        return ""
    # `activation_name` compares the repr of modules, which a class of another library may share.
    return activation_name(module) if type(module).__module__ == nn.GELU.__module__ else None


def add_or_multiply(
    y: Float[Tensor, "*b o"], residual: Float[Tensor, "*b o"] | None, factor: Float[Tensor, "*b o"] | None
) -> Float[Tensor, "*b o"]:
    """Returns y + residual or y * factor, with dtype promotion. Returns y if both are None."""
    return y + residual if residual is not None else y * factor if factor is not None else y


class Dense(nn.Module):
    """A dense layer with constant weights: act(x W^T + b), then + residual or * factor, if one of them is given.

    With `packed` the weight is stored in oneDNN's blocked layout, bias and activation are fused into the product, and
    the residual or factor is applied in place. Without it the operations are PyTorch's, on any device. If oneDNN cannot
    pack `dtype` on this CPU, weights and inputs are rounded to it and multiplied in packed float32, which is five times
    as fast as PyTorch's product in that dtype.
    `observer`, if set, is called with every input; used to calibrate int8 layers.
    """

    def __init__(
        self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, dtype: torch.dtype, packed: bool,
        act: str = "",
    ):  # fmt: skip
        super().__init__()
        self.act = act
        self.dtype = dtype
        self.packed = packed
        self.observer: Callable[[Tensor], None] | None = None
        self.inner = torch.float32 if packed and not can_pack(dtype) else dtype
        weight = weight.detach().to(dtype).to(self.inner)
        bias = None if bias is None else bias.detach().to(dtype).to(self.inner)
        # Not parameters: a packed weight cannot be moved or converted.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_EXPECTED) if packed else weight
        self.bias = bias

    def forward(
        self,
        x: Float[Tensor, "*b i"],
        *,
        residual: Float[Tensor, "*b o"] | None = None,
        factor: Float[Tensor, "*b o"] | None = None,
    ) -> Float[Tensor, "*b o"]:
        """Returns the output. A layer without activation also adds `residual` or multiplies by `factor`, if given."""
        x = x.to(self.dtype)
        if self.observer is not None:
            self.observer(x)
        if not self.packed:
            return add_or_multiply(PLAIN[self.act](F.linear(x, self.weight, self.bias)), residual, factor)
        x = x.contiguous().to(self.inner)
        name, variant = FUSED[self.act]
        y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], variant).to(self.dtype)
        # In place while y is in the cache; oneDNN's fused addition reads every element of the bias in every call.
        return y.add_(residual) if residual is not None else y.mul_(factor) if factor is not None else y


class PatchDense(nn.Module):
    """A patch projection as a dense layer. It replaces a convolution whose stride equals its kernel size.

    Input (b, c, height, width), output (b, d, height / patch, width / patch), as for the convolution.
    """

    def __init__(self, convolution: nn.Conv2d, make: Callable[..., nn.Module], dtype: torch.dtype):
        super().__init__()
        self.patch = (convolution.kernel_size[0], convolution.kernel_size[1])
        self.dtype = dtype
        self.dense = make("proj", convolution.weight.flatten(1), convolution.bias)

    def forward(self, x: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """Returns the map of patch embeddings. Incomplete patches at the right and bottom are ignored."""
        x = x.to(self.dtype)
        height, width = self.patch
        rows, columns = x.shape[2] // height, x.shape[3] // width
        x = x[:, :, : rows * height, : columns * width]
        # Not einops: its shape checks take a measurable part of the time of a small model.
        patches = x.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return self.dense(patches.flatten(1, 2)).transpose(1, 2).unflatten(2, (rows, columns))


def has_float8_shape(weight: Float[Tensor, "o i"]) -> bool:
    """Returns whether float8 matrix products support a weight of this shape."""
    return all(size % FLOAT8_MULTIPLE == 0 for size in weight.shape)


def to_float8(x: Float[Tensor, "n k"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Converts a matrix to float8, and returns it with its scales (one per row)."""
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / FLOAT8_MAX
    return (x / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale


def float8_matmul(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor], dtype: torch.dtype) -> Float[Tensor, "n o"]:
    """Returns x W^T in `dtype`. x and W are float8 matrices with the scales from `to_float8`."""
    if not hasattr(F, "scaled_mm"):  # before torch 2.10
        return torch.ops.aten._scaled_mm(x[0], weight[0].t(), x[1], weight[1].t(), out_dtype=dtype)
    row = F.ScalingType.RowWise
    return F.scaled_mm(x[0], weight[0].t(), x[1], row, weight[1].t(), row, output_dtype=dtype)


class Float8Dense(nn.Module):
    """A dense layer with float8 matrix products: act(x W^T + b), then + residual or * factor, if one of them is given.

    Inputs have one scale per token, weights one per output channel. The weight must have a shape that
    `has_float8_shape` accepts.
    """

    def __init__(
        self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, dtype: torch.dtype, act: str = ""
    ):
        super().__init__()
        self.act = act
        self.dtype = dtype
        self.weight, self.scale = to_float8(weight.detach().float())
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(
        self,
        x: Float[Tensor, "*b i"],
        *,
        residual: Float[Tensor, "*b o"] | None = None,
        factor: Float[Tensor, "*b o"] | None = None,
    ) -> Float[Tensor, "*b o"]:
        """Returns the output. A layer without activation also adds `residual` or multiplies by `factor`, if given."""
        y = float8_matmul(to_float8(x.to(self.dtype).flatten(0, -2)), (self.weight, self.scale), self.dtype)
        y = PLAIN[self.act](y if self.bias is None else y + self.bias).unflatten(0, x.shape[:-1])
        return add_or_multiply(y, residual, factor)
