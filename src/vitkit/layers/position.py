"""Position embeddings: sine-cosine embeddings, resizing, and positional inputs of encoder blocks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitkit.layers.resize_matrix import is_symbolic, resize_by_matrices


@dataclass(frozen=True)
class PositionInput:
    """Positional inputs of one encoder block. Inputs that the block does not use are None.

    `added` is added to the tokens before the block (a position table with special rows first); `bias`, `rotation` and
    `relative` are the arguments of `Attention`.
    """

    added: Float[Tensor, "n d"] | None = None
    bias: Float[Tensor, "..."] | None = None
    rotation: Float[Tensor, "2 p k"] | None = None
    relative: Float[Tensor, "offsets k"] | None = None

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """The inputs that are arguments of the block's `forward` method, by name."""
        given = {"bias": self.bias, "rotation": self.rotation, "relative": self.relative}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


Grid = tuple[int, int]


def sincos2d(grid: Grid, width: int, *, temperature: float = 10_000.0, endpoint: bool = True) -> Float[Tensor, "n d"]:
    """Returns the fixed 2-D sine-cosine position embedding, as in big_vision or MAE.

    The default is that of big_vision ("Better plain ViT baselines"). A quarter of the width each is sin x, cos x, sin
    y, cos y at the frequencies temperature^(-k / (d/4 - 1)); x is the column. With `endpoint=False` the frequencies are
    temperature^(-k / (d/4)): MAE's table, and MoCo v3's with its halves swapped. Raises ValueError if the width is not
    a multiple of 4 or is below 8.
    """
    if width % 4 or width < 8:
        raise ValueError(
            f"width {width} does not fit a sine-cosine position embedding; it must be a multiple of 4 and at least 8"
        )
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
    # DINO scales sampling coordinates by (n + 0.1) / old instead of n / old, to avoid rounding errors in the size.
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
    table: Float[Tensor, "n d"], old: Grid, new: Grid, method: str, *, special: int = 0
) -> Float[Tensor, "m d"]:
    """Resizes a position embedding from the grid `old` (rows, columns) to the grid `new`.

    `method` is a key of `RESIZES`. The first `special` rows, which belong to special tokens, do not change. The
    arithmetic is float32 for every dtype of the table; equal grids return the table itself. In a trace for several
    sizes the resize is part of the graph.
    """
    if special:
        first, patches = table.tensor_split([special])
        return torch.cat([first, resize_positions(patches, old, new, method)])
    if method not in RESIZES:
        choices = ", ".join(RESIZES)
        raise ValueError(f"unknown resize method '{method}' for position embeddings; expected one of {choices}")
    if table.shape[0] != old[0] * old[1]:
        raise ValueError(f"a position embedding with {table.shape[0]} rows does not fit a grid of {old[0]}x{old[1]}")
    table_map = rearrange(table.float(), "(r c) d -> 1 d r c", r=old[0], c=old[1])
    if is_symbolic(new):
        resized = resize_by_matrices(table_map[0], new, method)[None]
    elif old == new:
        return table
    else:
        resized = RESIZES[method](table_map, old, new)
    return rearrange(resized, "1 d r c -> (r c) d").to(table.dtype)


def resize_tables(
    tables: Float[Tensor, "t n d"], old: Grid, new: Grid, method: str, *, special: int = 0
) -> Float[Tensor, "t m d"]:
    """Resizes several position embeddings of the same grid (one per layer, for example) with `resize_positions`."""
    if not is_symbolic(new) and old == new:
        return tables
    wide = rearrange(tables, "t n d -> n (t d)")
    resized = resize_positions(wide, old, new, method, special=special)
    return rearrange(resized, "n (t d) -> t n d", t=tables.shape[0])


def factorized_tables(
    row: Float[Tensor, "t rows e"], column: Float[Tensor, "t columns e"], new: Grid, method: str
) -> Float[Tensor, "t n d"]:
    """Returns position embeddings for the grid `new` that concatenate one vector per row and one per column.

    The vector of the patch (r, c) is the concatenation of row[r] and column[c] (ViT paper, appendix D.4,
    "2-dimensional"). If an axis has another length, its vectors are resized by `method` as a grid of one row or column.
    """
    row = resize_tables(row, (row.shape[1], 1), (new[0], 1), method)
    column = resize_tables(column, (1, column.shape[1]), (1, new[1]), method)
    # expand, and not repeat_interleave, whose result torch.export cannot give a symbolic size in ONNX.
    pair = (row[:, :, None].expand(-1, -1, new[1], -1), column[:, None].expand(-1, new[0], -1, -1))
    return torch.cat(pair, dim=3).flatten(1, 2)


def with_special_rows(tables: Float[Tensor, "t rows d"], num_patches: int, num_special: int) -> Float[Tensor, "t n d"]:
    """Adds rows of zeros to position embeddings, so that each of `num_special` special tokens has a row."""
    first, patches = tables.tensor_split([tables.shape[1] - num_patches], dim=1)
    return torch.cat([F.pad(first, (0, 0, 0, num_special - first.shape[1])), patches], dim=1)
