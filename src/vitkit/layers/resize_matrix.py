"""Interpolation matrices for position embeddings, used when torch.export traces a model with symbolic sizes.

`F.interpolate` cannot express every method in an exported graph. Each method is separable and linear, so that it is a
product with one matrix per axis. The matrices are computed from the sizes with elementary tensor operations, which
every runtime has.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Grid = tuple[int, int]
#: Parameter of the cubic convolution: PyTorch's bicubic interpolation without and with antialiasing (as Pillow's).
CUBIC, CUBIC_ANTIALIAS = -0.75, -0.5


def is_symbolic(grid: Grid) -> bool:
    """Returns whether a size is symbolic, as in a model that torch.export traces for dynamic image sizes."""
    return any(isinstance(size, torch.SymInt) for size in grid)


def resize_by_matrices(table: Float[Tensor, "d r c"], new: Grid, method: str) -> Float[Tensor, "d r2 c2"]:
    """Resizes a map to a grid of symbolic sizes, with the same result as the method in `position.RESIZES`."""
    rows, columns = (torch.full((), size, device=table.device) for size in new)
    same = (rows == table.shape[1]) & (columns == table.shape[2])
    left, right = (
        MATRICES[method](old, torch.arange(size, device=table.device), count, same)
        for old, size, count in zip(table.shape[1:], new, (rows, columns), strict=True)
    )
    return left @ table @ right.T


def _sources(index: Float[Tensor, " n"], scale: Float[Tensor, ""]) -> Float[Tensor, " n"]:
    """Returns the centers of the new cells as positions on the old axis."""
    return (index + 0.5) * scale - 0.5


def _cubic(distance: Float[Tensor, "*n"], a: float) -> Float[Tensor, "*n"]:
    """Returns the values of Keys' cubic convolution kernel with parameter `a`. It is zero from distance 2 on."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _triangle(distance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return (1 - distance.abs()).clamp_min(0)


def _with_repeated_ends(
    source: Float[Tensor, " n"], old: int, taps: range, weight: Callable[[Tensor], Tensor]
) -> Float[Tensor, "n old"]:
    """Returns the interpolation weights of the old cells. Positions outside the axis use the nearest cell."""
    cells = torch.arange(old, device=source.device)
    left = source.floor()
    matrix = torch.zeros((), device=source.device)
    for tap in taps:
        cell = left + tap
        one_hot = (cell.clamp(0, old - 1)[:, None] == cells).float()
        matrix = matrix + weight(source - cell)[:, None] * one_hot
    return matrix


def _antialiased(old: int, index: Tensor, count: Tensor, filter_: Callable[[Tensor], Tensor]) -> Float[Tensor, "n old"]:
    """Returns the normalized weights of an antialiasing filter. Downsampling stretches the filter, as in Pillow."""
    scale = old / count.float()
    stretch = scale.clamp_min(1.0)
    cells = torch.arange(old, device=index.device)
    weights = filter_((cells + 0.5 - (index.float()[:, None] + 0.5) * scale) / stretch)
    return weights / weights.sum(dim=1, keepdim=True)


def _bicubic(old: int, index: Tensor, count: Tensor, same: Bool[Tensor, ""]) -> Float[Tensor, "n old"]:
    source = _sources(index.float(), old / count.float())
    return _with_repeated_ends(source, old, range(-1, 3), lambda distance: _cubic(distance, CUBIC))


def _bicubic_offset(old: int, index: Tensor, count: Tensor, same: Bool[Tensor, ""]) -> Float[Tensor, "n old"]:
    # As `position._bicubic_offset`; a table for the native grid is not resized.
    scale = torch.where(same, torch.ones_like(count.float()), old / (count.float() + 0.1))
    source = _sources(index.float(), scale)
    return _with_repeated_ends(source, old, range(-1, 3), lambda distance: _cubic(distance, CUBIC))


def _bilinear(old: int, index: Tensor, count: Tensor, same: Bool[Tensor, ""]) -> Float[Tensor, "n old"]:
    source = _sources(index.float(), old / count.float()).clamp_min(0.0)
    return _with_repeated_ends(source, old, range(2), _triangle)


def _bilinear_corners(old: int, index: Tensor, count: Tensor, same: Bool[Tensor, ""]) -> Float[Tensor, "n old"]:
    source = index.float() * ((old - 1) / (count.float() - 1).clamp_min(1.0))
    return _with_repeated_ends(source, old, range(2), _triangle)


def _bicubic_antialias(old: int, index: Tensor, count: Tensor, same: Bool[Tensor, ""]) -> Float[Tensor, "n old"]:
    return _antialiased(old, index, count, lambda distance: _cubic(distance, CUBIC_ANTIALIAS))


def _bilinear_antialias(old: int, index: Tensor, count: Tensor, same: Bool[Tensor, ""]) -> Float[Tensor, "n old"]:
    return _antialiased(old, index, count, _triangle)


#: Functions of the old size, the new cells, their number, and whether the grid is the old one.
MATRICES: dict[str, Callable[[int, Tensor, Tensor, Tensor], Tensor]] = {
    "bicubic": _bicubic,
    "bicubic_antialias": _bicubic_antialias,
    "bicubic_offset": _bicubic_offset,
    "bilinear": _bilinear,
    "bilinear_antialias": _bilinear_antialias,
    "bilinear_corners": _bilinear_corners,
}
