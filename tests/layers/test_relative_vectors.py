"""Relative position vectors: logits and resizing against loops over pairs of patches."""

import math

import numpy as np
import pytest
import torch

from vitkit.layers import num_offsets, relative_logits, resize_offsets


@pytest.mark.parametrize("special", [0, 1, 3])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 1)], ids=str)
def test_relative_logits_match_a_loop_over_pairs(grid: tuple[int, int], special: int) -> None:
    p = math.prod(grid)
    q, table = torch.randn(2, 3, special + p, 8).double(), torch.randn(num_offsets(grid), 8).double()
    expected = torch.zeros(2, 3, special + p, special + p).double()
    for i in range(p):
        for j in range(p):
            expected[:, :, special + i, special + j] = q[:, :, special + i] @ table[i - j + p - 1] / math.sqrt(8)
    torch.testing.assert_close(relative_logits(q, table), expected, atol=1e-12, rtol=0)


def at(table: np.ndarray, grid: tuple[int, int], down: float, right: float) -> np.ndarray:
    """Interpolates the table bilinearly at a displacement on its own grid."""
    result = np.zeros(table.shape[1])
    for row in range(1 - grid[0], grid[0]):
        for column in range(1 - grid[1], grid[1]):
            weight = max(0.0, 1 - abs(down - row)) * max(0.0, 1 - abs(right - column))
            if weight > 0:
                result += weight * table[row * grid[1] + column + math.prod(grid) - 1]
    return result


@pytest.mark.parametrize(
    ("old", "new"), [((2, 3), (4, 5)), ((4, 4), (3, 2)), ((3, 3), (1, 4)), ((1, 4), (3, 3)), ((3, 2), (2, 3))], ids=str
)
def test_resizing_is_the_mean_over_all_pairs_with_an_offset(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = np.random.default_rng(0).standard_normal((num_offsets(old), 4))
    size = math.prod(new)
    total, pairs = np.zeros((2 * size - 1, 4)), np.zeros(2 * size - 1)
    scale = [(o - 1) / (n - 1) if n > 1 else 0.0 for o, n in zip(old, new, strict=True)]
    for i in range(size):
        for j in range(size):
            down, right = i // new[1] - j // new[1], i % new[1] - j % new[1]
            total[i - j + size - 1] += at(table, old, down * scale[0], right * scale[1])
            pairs[i - j + size - 1] += 1
    ours = resize_offsets(torch.from_numpy(table), old, new)
    np.testing.assert_allclose(ours.numpy(), total / pairs[:, None], atol=1e-12)


def test_resizing_to_the_same_grid_returns_the_table_and_a_table_of_another_grid_is_rejected() -> None:
    table = torch.randn(num_offsets((3, 4)), 8)
    assert resize_offsets(table, (3, 4), (3, 4)) is table
    assert resize_offsets(table.bfloat16(), (3, 4), (5, 6)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"table of 23 offsets does not fit a grid of 5x5"):
        resize_offsets(table, (5, 5), (6, 6))
