"""Relative position bias over a grid with one class token, and the three ways to resize its table (BEiT, section 2.2).

After Shaw et al. 2018 and Raffel et al. 2020. The class token has three rows of its own at the end of the table.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

Grid = tuple[int, int]
SPECIAL_ROWS = 3


def relative_rows(grid: Grid) -> int:
    """How many rows the table of a grid has: one for each distance in rows and columns, and three more."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + SPECIAL_ROWS


def relative_index(grid: Grid, *, device: torch.device | str | None = None) -> Int[Tensor, "n n"]:
    """Which row of the table each pair of tokens (query, key) reads; the class token is the first, patches row-major.

    Patches (r, c) and (s, t) read row (r - s + R - 1) (2 C - 1) + (c - t + C - 1) on a grid of R rows and C columns;
    the last three rows are class to patch, patch to class, and class to class.
    """
    rows, columns = grid
    row = torch.arange(rows, device=device).repeat_interleave(columns)
    column = torch.arange(columns, device=device).repeat(rows)
    index = (row[:, None] - row + rows - 1) * (2 * columns - 1) + column[:, None] - column + columns - 1
    index = F.pad(index, (1, 0, 1, 0), value=relative_rows(grid) - 2)
    index[0] = relative_rows(grid) - 3
    index[0, 0] = relative_rows(grid) - 1
    return index


def relative_bias(table: Float[Tensor, "rows h"], index: Int[Tensor, "n n"]) -> Float[Tensor, "h n n"]:
    """What attention adds to its logits: the row of the table for every pair of tokens."""
    return rearrange(table[index], "q k h -> h q k")


def geometric_places(old: int, new: int) -> Float[Tensor, " old"]:
    """Where the `old` distances of one axis are put among the `new` ones, 0 in the middle, in geometric steps.

    A small distance says more than a large one, so the table is stretched at its ends: the steps away from the middle
    are 1, q, q^2 ... with the q between 1.01 and 1.5, found by bisection, that just reaches the new end.
    """
    steps, end = old // 2, new // 2
    low, q, high = 1.01, 1.255, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**steps) / (1 - q) > end else (q, high)
    half = torch.cumsum(q ** torch.arange(steps, dtype=torch.float64), 0)
    return torch.cat([-half.flip(0), torch.zeros(1, dtype=torch.float64), half])


def linear_matrix(places: Float[Tensor, " m"], targets: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
    """The matrix that interpolates values at `places` linearly at `targets`; nearest value beyond the ends."""
    targets = targets.clamp(places[0], places[-1])
    left = (torch.searchsorted(places, targets, right=True) - 1).clamp(0, places.shape[0] - 2)
    share = (targets - places[left]) / (places[left + 1] - places[left])
    unit = torch.eye(places.shape[0], dtype=places.dtype)
    return torch.lerp(unit[left], unit[left + 1], share[:, None])


def cubic_matrix(places: Float[Tensor, " m"], targets: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
    """As `linear_matrix` with the cubic spline through all values whose two end pieces each join without a knot.

    The spline of SciPy's `interp2d`, which the original used. Raises ValueError for fewer than 4 places.
    """
    count = places.shape[0]
    if count < 4:
        raise ValueError(f"a cubic spline needs a table of at least 4 distances an axis, not {count}")
    step = places.diff()
    unit = torch.eye(count, dtype=places.dtype)
    slope = (unit[1:] - unit[:-1]) / step[:, None]
    # The second derivatives at the places solve `system @ second = slopes @ values`.
    system, slopes = torch.zeros_like(unit), torch.zeros_like(unit)
    for i in range(1, count - 1):
        system[i, i - 1 : i + 2] = torch.stack([step[i - 1], 2 * (step[i - 1] + step[i]), step[i]])
        slopes[i] = 6 * (slope[i] - slope[i - 1])
    system[0, :3] = torch.stack([step[1], -(step[0] + step[1]), step[0]])
    system[-1, -3:] = torch.stack([step[-1], -(step[-2] + step[-1]), step[-2]])
    second = torch.linalg.solve(system, slopes)
    targets = targets.clamp(places[0], places[-1])
    left = (torch.searchsorted(places, targets, right=True) - 1).clamp(0, count - 2)
    h, b = step[left][:, None], (targets - places[left])[:, None]
    a = h - b
    curve = (a**3 / h - a * h) * second[left] + (b**3 / h - b * h) * second[left + 1]
    return (a * unit[left] + b * unit[left + 1]) / h + curve / 6


def _geometric(matrix: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Grid, Grid], Tensor]:
    def resize(picture: Tensor, old: Grid, new: Grid) -> Tensor:
        rows, columns = (
            matrix(geometric_places(m, n), torch.arange(n, dtype=torch.float64) - n // 2)
            if m != n
            else torch.eye(n, dtype=torch.float64)
            for m, n in zip(old, new, strict=True)
        )
        return rows.to(picture) @ picture @ columns.to(picture).T

    return resize


def _bilinear(picture: Tensor, old: Grid, new: Grid) -> Tensor:
    return F.interpolate(picture[None], size=new, mode="bilinear", align_corners=False)[0]


RELATIVE_RESIZES: dict[str, Callable[[Tensor, Grid, Grid], Tensor]] = {
    "geometric": _geometric(cubic_matrix),  # BEiT
    "geometric_linear": _geometric(linear_matrix),  # timm
    "bilinear": _bilinear,  # Hugging Face
}


def resize_relative(table: Float[Tensor, "rows h"], old: Grid, new: Grid, dialect: str) -> Float[Tensor, "rows2 h"]:
    """A table for the grid `old` (rows, columns) made to fit the grid `new`, in one of the dialects `RELATIVE_RESIZES`.

    The three rows of the class token stay. The arithmetic is float32 whatever the table's type; equal grids give the
    table itself.
    """
    if dialect not in RELATIVE_RESIZES:
        raise ValueError(f"unknown way to resize a relative table '{dialect}'; there is {', '.join(RELATIVE_RESIZES)}")
    if table.shape[0] != relative_rows(old):
        raise ValueError(f"a relative table of {table.shape[0]} rows does not fit a grid of {old[0]}x{old[1]}")
    if old == new:
        return table
    patches, special = table.float().tensor_split([table.shape[0] - SPECIAL_ROWS])
    sizes = [(2 * grid[0] - 1, 2 * grid[1] - 1) for grid in (old, new)]
    picture = rearrange(patches, "(r c) h -> h r c", r=sizes[0][0])
    resized = RELATIVE_RESIZES[dialect](picture, sizes[0], sizes[1])
    return torch.cat([rearrange(resized, "h r c -> (r c) h"), special]).to(table.dtype)
