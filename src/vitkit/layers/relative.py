"""Relative position biases (BEiT, section 2.2), relative position vectors (Shaw et al. 2018), and resizing."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vitkit.layers.resize_matrix import is_symbolic, resize_by_matrices

Grid = tuple[int, int]
SPECIAL_ROWS = 3


def relative_rows(grid: Grid) -> int:
    """Returns the number of rows of a relative position bias table, including three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + SPECIAL_ROWS


def relative_index(grid: Grid, *, device: torch.device | str | None = None) -> Int[Tensor, "n n"]:
    """Returns the row of the relative position bias table for each pair of tokens (query, key).

    The class token is the first token, patches are row-major. Patches (r, c) and (s, t) use the row
    (r - s + R - 1) (2 C - 1) + (c - t + C - 1) on a grid of R rows and C columns; the last three rows are class to
    patch, patch to class, and class to class.
    """
    rows, columns = grid
    # expand, and not repeat_interleave, whose result torch.export cannot give a symbolic size in ONNX.
    row = torch.arange(rows, device=device)[:, None].expand(rows, columns).flatten()
    column = torch.arange(columns, device=device).expand(rows, columns).flatten()
    index = (row[:, None] - row + rows - 1) * (2 * columns - 1) + column[:, None] - column + columns - 1
    number, last = rows * columns, relative_rows(grid) - 1
    to_class = torch.full((number, 1), last - 1, device=device)
    from_class = torch.full((1, number), last - 2, device=device)
    both = torch.full((1, 1), last, device=device)
    return torch.cat([torch.cat([both, from_class], dim=1), torch.cat([to_class, index], dim=1)])


def relative_bias(table: Float[Tensor, "rows h"], index: Int[Tensor, "n n"]) -> Float[Tensor, "h n n"]:
    """Returns the relative position bias of every pair of tokens, which is added to the attention logits."""
    return rearrange(table[index], "q k h -> h q k")


def geometric_positions(old: int, new: int) -> Float[Tensor, " old"]:
    """Returns the position of each of the `old` distances on the new axis, in geometric steps from the center.

    Small distances need more resolution than large ones. The steps away from the middle are therefore 1, q, q^2 ...,
    where q between 1.01 and 1.5 is found by bisection such that the last step reaches the new end.
    """
    steps, end = old // 2, new // 2
    low, q, high = 1.01, 1.255, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**steps) / (1 - q) > end else (q, high)
    half = torch.cumsum(q ** torch.arange(steps, dtype=torch.float64), 0)
    return torch.cat([-half.flip(0), torch.zeros(1, dtype=torch.float64), half])


def linear_matrix(positions: Float[Tensor, " m"], targets: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
    """Returns the matrix that linearly interpolates values at `positions` to `targets`, clamped at the ends."""
    targets = targets.clamp(positions[0], positions[-1])
    left = (torch.searchsorted(positions, targets, right=True) - 1).clamp(0, positions.shape[0] - 2)
    fraction = (targets - positions[left]) / (positions[left + 1] - positions[left])
    unit = torch.eye(positions.shape[0], dtype=positions.dtype)
    return torch.lerp(unit[left], unit[left + 1], fraction[:, None])


def cubic_matrix(positions: Float[Tensor, " m"], targets: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
    """Returns the matrix of a cubic spline interpolation, with the not-a-knot condition at both ends.

    It is the spline of SciPy's `interp2d`, which the original used. Raises ValueError for fewer than 4 positions.
    """
    count = positions.shape[0]
    if count < 4:
        raise ValueError(f"a cubic spline needs a table of at least 4 distances per axis, not {count}")
    step = positions.diff()
    unit = torch.eye(count, dtype=positions.dtype)
    slope = (unit[1:] - unit[:-1]) / step[:, None]
    # The second derivatives at the positions solve `system @ second = slopes @ values`.
    system, slopes = torch.zeros_like(unit), torch.zeros_like(unit)
    for i in range(1, count - 1):
        system[i, i - 1 : i + 2] = torch.stack([step[i - 1], 2 * (step[i - 1] + step[i]), step[i]])
        slopes[i] = 6 * (slope[i] - slope[i - 1])
    system[0, :3] = torch.stack([step[1], -(step[0] + step[1]), step[0]])
    system[-1, -3:] = torch.stack([step[-1], -(step[-2] + step[-1]), step[-2]])
    second = torch.linalg.solve(system, slopes)
    targets = targets.clamp(positions[0], positions[-1])
    left = (torch.searchsorted(positions, targets, right=True) - 1).clamp(0, count - 2)
    h, b = step[left][:, None], (targets - positions[left])[:, None]
    a = h - b
    curve = (a**3 / h - a * h) * second[left] + (b**3 / h - b * h) * second[left + 1]
    return (a * unit[left] + b * unit[left + 1]) / h + curve / 6


def _geometric(
    matrix: Callable[[Tensor, Tensor], Tensor], *, keep_axes: bool
) -> Callable[[Tensor, Grid, Grid], Tensor]:
    """Returns the resize with a matrix per axis. `keep_axes` leaves an axis of the same length unchanged."""

    def resize(table: Tensor, old: Grid, new: Grid) -> Tensor:
        rows, columns = (
            matrix(geometric_positions(m, n), torch.arange(n, dtype=torch.float64) - n // 2)
            if m != n or not (keep_axes or n == 1)
            else torch.eye(n, dtype=torch.float64)
            for m, n in zip(old, new, strict=True)
        )
        return rows.to(table) @ table @ columns.to(table).T

    return resize


def _bilinear(table: Tensor, old: Grid, new: Grid) -> Tensor:
    if is_symbolic(new):
        return resize_by_matrices(table, new, "bilinear")
    return F.interpolate(table[None], size=new, mode="bilinear", align_corners=False)[0]


RELATIVE_RESIZES: dict[str, Callable[[Tensor, Grid, Grid], Tensor]] = {
    "geometric": _geometric(cubic_matrix, keep_axes=True),  # BEiT
    # timm resizes an axis of the same length, too: its geometric steps have a ratio of at least 1.01.
    "geometric_linear": _geometric(linear_matrix, keep_axes=False),
    "bilinear": _bilinear,  # Hugging Face
}


def resize_relative(table: Float[Tensor, "rows h"], old: Grid, new: Grid, method: str) -> Float[Tensor, "rows2 h"]:
    """Resizes a relative position bias table from the grid `old` (rows, columns) to the grid `new`.

    `method` is a key of `RELATIVE_RESIZES`. The three rows of the class token do not change. The arithmetic is float32
    for every dtype of the table; equal grids return the table itself.
    """
    if method not in RELATIVE_RESIZES:
        choices = ", ".join(RELATIVE_RESIZES)
        raise ValueError(
            f"unknown resize method '{method}' for a relative position bias table; expected one of {choices}"
        )
    if table.shape[0] != relative_rows(old):
        raise ValueError(
            f"a relative position bias table of {table.shape[0]} rows does not fit a grid of {old[0]}x{old[1]}"
        )
    if is_symbolic(new):
        if method != "bilinear":
            raise ValueError(
                f"relative_resize='{method}' does not support a dynamic image size; use relative_resize='bilinear'"
            )
    elif old == new:
        return table
    patches, special = table.float().tensor_split([table.shape[0] - SPECIAL_ROWS])
    sizes = [(2 * grid[0] - 1, 2 * grid[1] - 1) for grid in (old, new)]
    bias_map = rearrange(patches, "(r c) h -> h r c", r=sizes[0][0])
    resized = RELATIVE_RESIZES[method](bias_map, sizes[0], sizes[1])
    return torch.cat([rearrange(resized, "h r c -> (r c) h"), special]).to(table.dtype)


def num_offsets(grid: Grid) -> int:
    """Returns the number of differences between row-major patch indices of a grid: 2 n - 1 for n patches."""
    return 2 * grid[0] * grid[1] - 1


def relative_logits(q: Float[Tensor, "b h n k"], table: Float[Tensor, "offsets k"]) -> Float[Tensor, "b h n n"]:
    """Computes the logits q_i . r_(i - j) / sqrt(head width) of pairs of patches. Logits of special tokens are zero.

    The patches are the last p tokens; row i - j + p - 1 of the 2 p - 1 rows of the table is r_(i - j). As a loop over s
    special tokens: `logits[s + i, s + j] = q[s + i] @ table[i - j + p - 1] * k**-0.5`. Instead of gathering a vector
    for each pair, it computes one product of all queries with all vectors and shifts its rows (Huang et al. 2018).
    """
    p = (table.shape[0] + 1) // 2
    num_special = q.shape[2] - p
    products = (q[:, :, num_special:] * q.shape[-1] ** -0.5) @ table.flip(0).to(q.dtype).T
    # Column m of row i is r_(p - 1 - m), and j = m + i - p + 1: each row is shifted left by one more column.
    shifted = F.pad(products, (0, 1)).flatten(-2)[..., p - 1 : p - 1 + p * (2 * p - 1)].unflatten(-1, (p, 2 * p - 1))
    return F.pad(shifted[..., :p], (num_special, 0, num_special, 0))


def resize_offsets(table: Float[Tensor, "offsets k"], old: Grid, new: Grid) -> Float[Tensor, "offsets2 k"]:
    """Resizes a table of relative position vectors from the grid `old` to the grid `new`.

    A displacement (r, c) on the new grid is (r (R - 1) / (R2 - 1), c (C - 1) / (C2 - 1)) on the old grid, where the
    vectors of the four integer displacements around it are interpolated bilinearly. One offset can be two displacements
    (one column to the right, or one row down and all columns to the left): its vector is the mean over all pairs of
    patches with this offset. Equal grids return the table itself. Raises ValueError for a table of another grid.
    """
    if table.shape[0] != num_offsets(old):
        raise ValueError(f"a table of {table.shape[0]} offsets does not fit a grid of {old[0]}x{old[1]}")
    if old == new:
        return table
    down, right = (_Displacements(*sizes, table.device) for sizes in zip(old, new, strict=True))
    center, new_centre = old[0] * old[1] - 1, new[0] * new[1] - 1
    total = torch.zeros(num_offsets(new), table.shape[1], dtype=torch.float64, device=table.device)
    pairs = torch.zeros(num_offsets(new), 1, dtype=torch.float64, device=table.device)
    count = (down.pairs[:, None] * right.pairs[None, :]).reshape(-1, 1)
    offset = (down.new[:, None] * new[1] + right.new[None, :]).flatten() + new_centre
    pairs.index_add_(0, offset, count)
    for step, fraction in down.neighbors():
        for other, other_fraction in right.neighbors():
            source = (step[:, None] * old[1] + other[None, :]).flatten() + center
            weight = (fraction[:, None] * other_fraction[None, :]).reshape(-1, 1) * count
            total.index_add_(0, offset, weight * table.double()[source])
    return (total / pairs.clamp(min=1)).to(table.dtype)


class _Displacements:
    """Displacements along one axis of the new grid, with their numbers of patch pairs and positions on the old grid."""

    def __init__(self, old: int, new: int, device: torch.device):
        self.new = torch.arange(1 - new, new, device=device)
        self.pairs = (new - self.new.abs()).double()
        position = self.new.double() * (old - 1) / max(new - 1, 1)
        self.low = position.floor().clamp(max=old - 1).long()
        self.high = (self.low + 1).clamp(max=old - 1)
        self.fraction = position - self.low

    def neighbors(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Returns the next lower and next higher displacements on the old grid, each with its interpolation weight."""
        return (self.low, 1 - self.fraction), (self.high, self.fraction)
