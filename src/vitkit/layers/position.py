"""Position embeddings: sine-cosine tables, resizing, and the positional input of encoder blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """What one block is told of where its tokens lie; None is nothing.

    `added` goes onto the tokens before the block (a position table of its own, special rows first); `bias`, `rotation`
    and `relative` are those of `Attention`.
    """

    added: Float[Tensor, "n d"] | None = None
    bias: Float[Tensor, "..."] | None = None
    rotation: Float[Tensor, "2 p k"] | None = None
    relative: Float[Tensor, "offsets k"] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The keywords that the block takes."""
        given = {"bias": self.bias, "rotation": self.rotation, "relative": self.relative}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


Grid = tuple[int, int]


def sincos2d(grid: Grid, width: int, *, temperature: float = 10_000.0, endpoint: bool = True) -> Float[Tensor, "n d"]:
    """The fixed two-dimensional sine-cosine table of big_vision ("Better plain ViT baselines"), and that of MAE.

    A quarter of the width each for sin x, cos x, sin y, cos y at frequencies temperature^(-k / (d/4 - 1)); x is the
    column. Without `endpoint` they are temperature^(-k / (d/4)): MAE's table, and MoCo v3's with its halves swapped.
    Raises ValueError where the width is not a multiple of 4 or below 8.
    """
    if width % 4 or width < 8:
        raise ValueError(f"a sine-cosine table needs a width that is a multiple of 4 and at least 8, not {width}")
    steps = torch.arange(width // 4, dtype=torch.float64) / (width // 4 - endpoint)
    omega = temperature**-steps
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    x, y = x.flatten()[:, None] * omega, y.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def _bicubic(table: Tensor, old: Grid, new: Grid) -> Tensor:
    return F.interpolate(table, size=new, mode="bicubic", align_corners=False)


def _bicubic_antialias(table: Tensor, old: Grid, new: Grid) -> Tensor:
    return F.interpolate(table, size=new, mode="bicubic", align_corners=False, antialias=True)


def _bilinear_corners(table: Tensor, old: Grid, new: Grid) -> Tensor:
    return F.interpolate(table, size=new, mode="bilinear", align_corners=True)


def _bicubic_offset(table: Tensor, old: Grid, new: Grid) -> Tensor:
    # DINO scales sampling coordinates by (n + 0.1) / old instead of n / old, against rounding errors of the size.
    scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
    return F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)


def _bilinear_antialias(table: Tensor, old: Grid, new: Grid) -> Tensor:
    return F.interpolate(table, size=new, mode="bilinear", align_corners=False, antialias=True)


RESIZES: dict[str, Callable[[Tensor, Grid, Grid], Tensor]] = {
    "bicubic": _bicubic,  # Hugging Face
    "bicubic_antialias": _bicubic_antialias,  # timm, and torchvision's weights through its own helper
    "bilinear_corners": _bilinear_corners,  # Google: scipy.ndimage.zoom of order 1
    "bicubic_offset": _bicubic_offset,  # DINO, DINOv2 without registers
    "bilinear_antialias": _bilinear_antialias,  # FlexiViT and NaFlex: jax.image.resize, linear
}


def resize_positions(
    table: Float[Tensor, "n d"], old: Grid, new: Grid, dialect: str, *, special: int = 0
) -> Float[Tensor, "m d"]:
    """A learned table for a grid `old` (rows, columns) made to fit the grid `new`, in one of the dialects `RESIZES`.

    Its first `special` rows, of tokens that are no patches, stay as they are. The arithmetic is float32 whatever the
    table's type; equal grids give the table itself.
    """
    if special:
        first, patches = table.tensor_split([special])
        return torch.cat([first, resize_positions(patches, old, new, dialect)])
    if dialect not in RESIZES:
        raise ValueError(f"unknown way to resize positions '{dialect}'; there is {', '.join(RESIZES)}")
    if table.shape[0] != old[0] * old[1]:
        raise ValueError(f"a table of {table.shape[0]} positions does not fit a grid of {old[0]}x{old[1]}")
    if old == new:
        return table
    picture = rearrange(table.float(), "(r c) d -> 1 d r c", r=old[0], c=old[1])
    resized = RESIZES[dialect](picture, old, new)
    return rearrange(resized, "1 d r c -> (r c) d").to(table.dtype)


def resize_tables(
    tables: Float[Tensor, "t n d"], old: Grid, new: Grid, dialect: str, *, special: int = 0
) -> Float[Tensor, "t m d"]:
    """As `resize_positions` for several tables of one grid at once, one for each layer, say."""
    if old == new:
        return tables
    wide = rearrange(tables, "t n d -> n (t d)")
    resized = resize_positions(wide, old, new, dialect, special=special)
    return rearrange(resized, "n (t d) -> t n d", t=tables.shape[0])


def factorised_tables(
    row: Float[Tensor, "t rows e"], column: Float[Tensor, "t columns e"], new: Grid, dialect: str
) -> Float[Tensor, "t n d"]:
    """Tables of a grid `new` made of one vector for each row and one for each column, half the width each.

    The vector of the patch (r, c) is row[r] beside column[c] (ViT paper, appendix D.4, "2-dimensional"). Along an axis
    of another length the vectors are resized in the dialect, as a grid of one row or one column.
    """
    row = resize_tables(row, (row.shape[1], 1), (new[0], 1), dialect)
    column = resize_tables(column, (1, column.shape[1]), (1, new[1]), dialect)
    return torch.cat([row.repeat_interleave(new[1], dim=1), column.repeat(1, new[0], 1)], dim=2)


def with_special_rows(tables: Float[Tensor, "t rows d"], num_patches: int, num_special: int) -> Float[Tensor, "t n d"]:
    """The tables with a row of zeros for each of `num_special` tokens before the patches that they have none for."""
    first, patches = tables.tensor_split([tables.shape[1] - num_patches], dim=1)
    return torch.cat([F.pad(first, (0, 0, 0, num_special - first.shape[1])), patches], dim=1)
