"""Resizing by matrices equals `F.interpolate` for every method and is used for symbolic sizes only."""

import pytest
import torch
import torch.nn.functional as F

from vitkit.inference.runtimes._trace import without_shape_checks
from vitkit.layers import RESIZES, is_symbolic, resize_positions
from vitkit.layers.resize_matrix import MATRICES, resize_by_matrices

GRIDS = [(1, 1), (3, 2), (4, 4), (9, 20), (14, 15), (31, 6)]


def interpolated(table: torch.Tensor, new: tuple[int, int], method: str) -> torch.Tensor:
    old = (table.shape[1], table.shape[2])
    if new == old:  # `resize_positions` returns the table itself
        return table
    if method == "bilinear":  # of relative position biases
        return F.interpolate(table[None], size=new, mode="bilinear", align_corners=False)[0]
    return RESIZES[method](table[None], old, new)[0]


@pytest.mark.parametrize("old", [(4, 4), (14, 14), (7, 5), (1, 3)])
@pytest.mark.parametrize("method", MATRICES)
def test_matrices_equal_interpolate(method: str, old: tuple[int, int]) -> None:
    table = torch.randn(6, *old, generator=torch.Generator().manual_seed(0))
    for new in [*GRIDS, old]:
        found = resize_by_matrices(table, new, method)
        torch.testing.assert_close(found, interpolated(table, new, method), atol=3e-5, rtol=1e-5)


def test_every_method_of_position_tables_has_a_matrix() -> None:
    assert set(RESIZES) == set(MATRICES) - {"bilinear"}


@pytest.mark.parametrize("method", MATRICES)
def test_rows_of_a_matrix_sum_to_one(method: str) -> None:
    ones = torch.ones(1, 5, 7)
    torch.testing.assert_close(resize_by_matrices(ones, (11, 3), method), torch.ones(1, 11, 3))


def test_plain_sizes_are_not_symbolic() -> None:
    assert not is_symbolic((14, 14))
    table = torch.randn(12, 8)
    assert resize_positions(table, (3, 4), (3, 4), "bicubic") is table


def test_a_traced_resize_fits_every_size() -> None:
    """Oracle: the eager function."""

    class Resize(torch.nn.Module):
        """Adds a resized table to a map."""

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(1 + 12, 8, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return resize_positions(self.table, (3, 4), (x.shape[2], x.shape[3]), "bicubic_antialias", special=1)

    module = Resize()
    sides = {2: torch.export.Dim("rows", min=2), 3: torch.export.Dim("columns", min=2)}
    with without_shape_checks():
        program = torch.export.export(module, (torch.zeros(1, 8, 5, 6),), dynamic_shapes=(sides,)).module()
    for rows, columns in ((3, 4), (2, 9), (6, 5)):
        x = torch.zeros(1, 8, rows, columns)
        torch.testing.assert_close(program(x), module(x), atol=1e-5, rtol=1e-5)
