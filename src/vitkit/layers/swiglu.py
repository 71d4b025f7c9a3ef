"""The gated MLP of larger DINOv2 and DINOv3 models (Shazeer 2020, "GLU Variants Improve Transformer")."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """silu(gate) * value between two dense layers; the rows of `fc1` are first the gate, then the value.

    `hidden` is the width of each of the two.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Each token on its own."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.dropout(self.fc2(self.dropout(F.silu(gate) * value)))
