"""Axial attention along the rows or columns of a grid (Wang et al. 2020; ViT paper, appendix D.6)."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers.attention import Attention
from vitkit.layers.batch_norm import BatchNorm
from vitkit.layers.block import DropPath, layer_norm
from vitkit.layers.position import resize_positions


class RelativeLineAttention(nn.Module):
    """Self-attention with relative positions along the rows or the columns (b, c, n) of a feature map.

    Heads are contiguous; queries and keys have half the width of a value. With trainable vectors r for every distance
    i - j of two positions, the logits are q_i k_j + q_i r^q_(i-j) + k_j r^k_(j-i). Each of the three terms goes through
    a batch norm, which replaces the usual division by sqrt(k). The output is the sum over j of a_ij v_j and of
    a_ij r^v_(i-j), each of them normalized, too. The table has the size for lines of `length`, distance 0 in its
    middle; it is interpolated for other lengths. Raises ValueError if the width is not a multiple of twice the heads.
    """

    def __init__(self, width: int, num_heads: int, length: int, *, norm_eps: float = 1e-5):
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"width {width} is not a multiple of twice the number of heads {num_heads}")
        self.num_heads = num_heads
        value = width // num_heads
        self.parts = (value // 2, value // 2, value)
        self.qkv = nn.Conv1d(width, 2 * width, 1, bias=False)
        self.norm_qkv = BatchNorm(2 * width, eps=norm_eps)
        self.relative = nn.Parameter(torch.zeros(2 * value, 2 * length - 1))
        self.norm_logits = BatchNorm(3 * num_heads, eps=norm_eps)
        self.norm_out = BatchNorm(2 * width, eps=norm_eps)

    @property
    def length(self) -> int:
        """Length of rows or columns for which the table of relative positions is not interpolated."""
        return (self.relative.shape[1] + 1) // 2

    def resize(self, length: int) -> None:
        """Interpolates the table of relative positions for rows or columns of another length."""
        self.relative = nn.Parameter(self.interpolated(length).detach().clone())

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        """Returns the rows or columns after attention."""
        q, k, v = rearrange(self.norm_qkv(self.qkv(x)), "b (h k) n -> b h k n", h=self.num_heads).split(
            self.parts, dim=2
        )
        relative_q, relative_k, relative_v = self.relative_to(x.shape[2]).split(self.parts)
        logits = [
            torch.einsum("bhki,bhkj->bhij", q, k),
            torch.einsum("bhki,kij->bhij", q, relative_q),
            torch.einsum("bhkj,kji->bhij", k, relative_k),
        ]
        logits = rearrange(self.norm_logits(torch.cat(logits, dim=1)), "b (three h) i j -> three b h i j", three=3)
        weights = logits.sum(dim=0).softmax(dim=-1)
        out = [torch.einsum("bhij,bhkj->bhki", weights, v), torch.einsum("bhij,kij->bhki", weights, relative_v)]
        out = self.norm_out(rearrange(torch.stack(out), "two b h k n -> b (h k two) n"))
        return rearrange(out, "b (c two) n -> two b c n", two=2).sum(dim=0)

    def interpolated(self, length: int) -> Float[Tensor, "k distances"]:
        """Returns the relative position table for rows or columns of a given length, with distance 0 in the middle."""
        if length == 1:
            return self.relative[:, self.length - 1 : self.length]
        sizes = (1, 2 * self.length - 1), (1, 2 * length - 1)
        return resize_positions(self.relative.T, *sizes, "bilinear_corners").T

    def relative_to(self, length: int) -> Float[Tensor, "k n n"]:
        """Returns the relative position vector of each pair of positions (i, j): the table column of i - j."""
        table = self.interpolated(length)
        position = torch.arange(length, device=table.device)
        return table[:, position[:, None] - position[None, :] + length - 1]

    def init_weights(self) -> None:
        """Initializes weights and relative positions as in the original code: normal with variance 1 / fan-in."""
        nn.init.normal_(self.qkv.weight, std=self.qkv.in_channels**-0.5)
        nn.init.normal_(self.relative, std=self.parts[2] ** -0.5)


Axis = Literal["row", "column"]

# einops patterns from the tokens (b, n, d) of a grid to lines and back; r and c are rows and columns.
LINES = {
    "row": ("b (r c) d -> (b r) c d", "(b r) c d -> b (r c) d"),
    "column": ("b (r c) d -> (b c) r d", "(b c) r d -> b (r c) d"),
}


class AxialBlock(nn.Module):
    """Pre-norm encoder block with attention along rows or columns (ViT paper, appendix D.6).

    It equals a `Block` whose attention is masked to the rows (or columns). Its cost per token grows with the length of
    a line, not with the number of tokens. Stochastic depth drops the branch for complete images, not for lines.
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
        """Returns the tokens of a grid of (rows, columns) after attention and MLP."""
        to_lines, to_tokens = LINES[self.axis]
        lines = self.attn(rearrange(self.norm1(x), to_lines, r=grid[0], c=grid[1]))
        x = x + self.drop_path(self.dropout(rearrange(lines, to_tokens, r=grid[0], c=grid[1])))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attention_weights(self, x: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b h n n"]:
        """Returns the attention weights of `forward`. They are zero between tokens of different rows (or columns)."""
        rows, columns = grid
        weights = self.attn.weights(rearrange(self.norm1(x), LINES[self.axis][0], r=rows, c=columns))
        if self.axis == "row":
            same = torch.eye(rows, dtype=weights.dtype, device=weights.device)
            weights = rearrange(weights, "(b r) h c k -> b h r c k", r=rows)
            return rearrange(torch.einsum("bhrck,rs->bhrcsk", weights, same), "b h r c s k -> b h (r c) (s k)")
        same = torch.eye(columns, dtype=weights.dtype, device=weights.device)
        weights = rearrange(weights, "(b c) h r s -> b h c r s", c=columns)
        return rearrange(torch.einsum("bhcrs,ck->bhrcsk", weights, same), "b h r c s k -> b h (r c) (s k)")
