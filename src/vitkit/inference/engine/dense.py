"""A dense layer for inference: weights packed once, bias and activation in the product, the residual added in place."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.inference.engine.machine import can_pack
from vitkit.layers.activations import CORE, activation_name

# oneDNN's names (and the variant it wants) for the activations that it applies inside a product; "" is none.
FUSED = {"": ("none", "")} | {name: each.onednn for name, each in CORE.items() if each.onednn is not None}
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"": lambda x: x} | {
    name: each.function for name, each in CORE.items() if each.function is not None
}
# What the layout of packed weights is chosen for: the tokens of eight pictures of 14x14 patches. Others work as well.
ROWS_EXPECTED = 8 * 197


def fused_name(module: nn.Module) -> str | None:
    """The name in `PLAIN` of an activation module; None for one that is not among them."""
    return "" if isinstance(module, nn.Identity) else activation_name(module)


def ended(
    y: Float[Tensor, "*b o"], residual: Float[Tensor, "*b o"] | None, factor: Float[Tensor, "*b o"] | None
) -> Float[Tensor, "*b o"]:
    """What ends a layer that fuses nothing: + residual, * factor, or as it is; of the wider of both types."""
    return y + residual if residual is not None else y * factor if factor is not None else y


class Dense(nn.Module):
    """act(x W^T + b), then + residual or * factor, for a fixed `weight` (out, in) and `bias` (out,).

    With `packed` the weight is kept in oneDNN's blocked layout, bias and activation are part of the product, and what
    is added or multiplied after it is so in place; without, it is what torch does step by step, on any device. Where
    oneDNN cannot pack `dtype` on this CPU, weights and inputs are rounded to it and multiplied in packed float32, which
    is five times as fast as torch's own product of that type.
    `watch`, if set, is shown every input: how activations are calibrated.
    """

    def __init__(
        self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, dtype: torch.dtype, packed: bool,
        act: str = "",
    ):  # fmt: skip
        super().__init__()
        self.act = act
        self.dtype = dtype
        self.packed = packed
        self.watch: Callable[[Tensor], None] | None = None
        self.inner = torch.float32 if packed and not can_pack(dtype) else dtype
        weight = weight.detach().to(dtype).to(self.inner)
        bias = None if bias is None else bias.detach().to(dtype).to(self.inner)
        # Not parameters: a packed weight can be neither moved nor converted, only multiplied with.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_EXPECTED) if packed else weight
        self.bias = bias

    def forward(
        self,
        x: Float[Tensor, "*b i"],
        *,
        residual: Float[Tensor, "*b o"] | None = None,
        factor: Float[Tensor, "*b o"] | None = None,
    ) -> Float[Tensor, "*b o"]:
        """The product; at most one of `residual` and `factor`, and neither beside an activation."""
        x = x.to(self.dtype)
        if self.watch is not None:
            self.watch(x)
        if not self.packed:
            return ended(PLAIN[self.act](F.linear(x, self.weight, self.bias)), residual, factor)
        x = x.contiguous().to(self.inner)
        name, variant = FUSED[self.act]
        y = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], variant).to(self.dtype)
        # In place while it is in the cache: oneDNN's own addition looks at every element of the bias on every call.
        return y.add_(residual) if residual is not None else y.mul_(factor) if factor is not None else y


class PatchDense(nn.Module):
    """The patch projection as a dense layer: a convolution whose stride is its kernel sees every pixel once.

    Takes (b, c, rows, columns) and gives (b, d, rows / patch, columns / patch), what the convolution would.
    """

    def __init__(self, convolution: nn.Conv2d, make: Callable[..., nn.Module], dtype: torch.dtype):
        super().__init__()
        self.patch = (convolution.kernel_size[0], convolution.kernel_size[1])
        self.dtype = dtype
        self.dense = make("proj", convolution.weight.flatten(1), convolution.bias)

    def forward(self, x: Float[Tensor, "b c height width"]) -> Float[Tensor, "b d rows columns"]:
        """One vector a patch, laid out as a picture; a remainder at the right and the bottom is left out."""
        x = x.to(self.dtype)
        height, width = self.patch
        rows, columns = x.shape[2] // height, x.shape[3] // width
        x = x[:, :, : rows * height, : columns * width]
        # einops would do, but its check of every size is a part of the time of a small network.
        patches = x.unflatten(3, (columns, width)).unflatten(2, (rows, height)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return self.dense(patches.flatten(1, 2)).transpose(1, 2).unflatten(2, (rows, columns))


TYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(TYPE).max
MULTIPLE = 16  # of rows and columns of a weight: what the products of this type want


def fits(weight: Float[Tensor, "o i"]) -> bool:
    """Whether a weight has the shape that these products take."""
    return all(size % MULTIPLE == 0 for size in weight.shape)


def rounded(x: Float[Tensor, "n k"]) -> tuple[Tensor, Float[Tensor, "n 1"]]:
    """Rows in 8 bits, and what each is to be multiplied with."""
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x / scale).clamp(-LARGEST, LARGEST).to(TYPE), scale


def multiplied(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor], dtype: torch.dtype) -> Float[Tensor, "n o"]:
    """x W^T of two that are `rounded`, in numbers of type `dtype`."""
    row = F.ScalingType.RowWise
    return F.scaled_mm(x[0], weight[0].t(), x[1], row, weight[1].t(), row, output_dtype=dtype)


class Float8Dense(nn.Module):
    """act(x W^T + b), then + residual or * factor; what comes in is rounded token by token, what goes out is `dtype`.

    Takes a weight that `fits`.
    """

    def __init__(
        self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, *, dtype: torch.dtype, act: str = ""
    ):
        super().__init__()
        self.act = act
        self.dtype = dtype
        self.weight, self.scale = rounded(weight.detach().float())
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(
        self,
        x: Float[Tensor, "*b i"],
        *,
        residual: Float[Tensor, "*b o"] | None = None,
        factor: Float[Tensor, "*b o"] | None = None,
    ) -> Float[Tensor, "*b o"]:
        """The product; at most one of `residual` and `factor`, and neither beside an activation."""
        y = multiplied(rounded(x.to(self.dtype).flatten(0, -2)), (self.weight, self.scale), self.dtype)
        y = PLAIN[self.act](y if self.bias is None else y + self.bias).unflatten(0, x.shape[:-1])
        return ended(y, residual, factor)
