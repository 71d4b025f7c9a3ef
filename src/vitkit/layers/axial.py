"""Attention along one axis of the grid at a time: within each row, or within each column (Ho et al. 2019)."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.attention import Attention
from vitkit.layers.block import DropPath, layer_norm

Axis = Literal["row", "column"]

# How tokens (b, n, d) of a grid become lines, and lines tokens again; r and c are rows and columns.
LINES = {
    "row": ("b (r c) d -> (b r) c d", "(b r) c d -> b (r c) d"),
    "column": ("b (r c) d -> (b c) r d", "(b c) r d -> b (r c) d"),
}


class AxialBlock(nn.Module):
    """A pre-norm encoder block whose attention stays within each line of the grid (ViT paper, appendix D.6).

    The same as a `Block` whose attention is masked to the rows (or the columns), at a cost that grows with the length
    of a line instead of that of the picture. Stochastic depth drops whole pictures, not lines.
    """

    def __init__(
        self,
        attention: Attention,
        mlp: nn.Module,
        axis: Axis,
        *,
        width: int,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.axis = axis
        self.norm1 = layer_norm(width, norm_eps)
        self.attn = attention
        self.norm2 = layer_norm(width, norm_eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """The tokens of a grid of (rows, columns) after attention and MLP."""
        to_lines, to_tokens = LINES[self.axis]
        lines = self.attn(rearrange(self.norm1(x), to_lines, r=grid[0], c=grid[1]))
        x = x + self.drop_path(self.dropout(rearrange(lines, to_tokens, r=grid[0], c=grid[1])))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attention_weights(self, x: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b h n n"]:
        """The attention weights that `forward` uses, zero between tokens of different lines."""
        rows, columns = grid
        weights = self.attn.weights(rearrange(self.norm1(x), LINES[self.axis][0], r=rows, c=columns))
        if self.axis == "row":
            same = torch.eye(rows, dtype=weights.dtype, device=weights.device)
            weights = rearrange(weights, "(b r) h c k -> b h r c k", r=rows)
            return rearrange(torch.einsum("bhrck,rs->bhrcsk", weights, same), "b h r c s k -> b h (r c) (s k)")
        same = torch.eye(columns, dtype=weights.dtype, device=weights.device)
        weights = rearrange(weights, "(b c) h r s -> b h c r s", c=columns)
        return rearrange(torch.einsum("bhcrs,ck->bhrcsk", weights, same), "b h r c s k -> b h (r c) (s k)")
