"""Prototypes that vectors of length 1 are compared with (DINO, Caron et al. 2021)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Prototypes(nn.Module):
    """A dense layer without bias whose rows are a length and a direction; names as in DINO's checkpoints."""

    def __init__(self, width: int, outputs: int, *, fixed_norm: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=not fixed_norm)
        self.weight_v = nn.Parameter(torch.empty(outputs, width).uniform_(-(width**-0.5), width**-0.5))

    def forward(self, x: Float[Tensor, "b d"], *, rest: bool = False) -> Float[Tensor, "b k"]:
        """The products with the rows."""
        weight = self.weight_g * F.normalize(self.weight_v, dim=1)
        return F.linear(x, weight.detach() if rest else weight)
