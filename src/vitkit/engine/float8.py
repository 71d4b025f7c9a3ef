"""A dense layer of 8-bit floating numbers (e4m3) for GPUs that multiply them: weights by channel, inputs by token.

x is x8 * s with s = max|x| / 448 of its token, W is W8 * t with t of its output channel: what a row holds uses the
whole range of the type (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"). Sums are float32.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.engine.dense import PLAIN, ended

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
