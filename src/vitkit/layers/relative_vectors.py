"""Relative positions of the ViT paper's appendix D.4: a vector for every offset, which queries meet as extra keys.

An "extra attention" has the content of the queries and, as keys, one embedding for every offset of a query and a key;
its logits are added to those of the main attention before the softmax (after Shaw et al. 2018). The offset of two
patches is one number, the difference of their places in the sequence of patches, row by row ("1-dimensional Relative
Attention"). Open in the paper and chosen here: every layer has its own vectors, its heads share them (Shaw et al.,
section 3.3), and tokens that are no patches have no place, so that pairs with one of them get no extra logit. (For a
head that reads the class token the vectors of the last layer therefore change nothing.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]


def num_offsets(grid: Grid) -> int:
    """How many offsets two patches of a grid can have, from -(n - 1) to n - 1: the rows of a table."""
    return 2 * grid[0] * grid[1] - 1


def relative_logits(q: Float[Tensor, "b h n k"], table: Float[Tensor, "offsets k"]) -> Float[Tensor, "b h n n"]:
    """q_i . r_(i - j) / sqrt(k) for every pair of patches, query i and key j; zero where one is no patch.

    The patches are the last tokens, as many as the table is for; row i - j + p - 1 of its 2 p - 1 is r_(i - j). As a
    loop: `logits[s + i, s + j] = q[s + i] @ table[i - j + p - 1] * k**-0.5`. Instead of gathering a vector for each
    pair, every query meets every vector once and the rows are then shifted against each other (Huang et al. 2018).
    """
    p = (table.shape[0] + 1) // 2
    num_special = q.shape[2] - p
    met = (q[:, :, num_special:] * q.shape[-1] ** -0.5) @ table.flip(0).to(q.dtype).T
    # Column m of row i is r_(p - 1 - m); j = m + i - p + 1, so that one row further it is one column further left.
    shifted = F.pad(met, (0, 1)).flatten(-2)[..., p - 1 : p - 1 + p * (2 * p - 1)].unflatten(-1, (p, 2 * p - 1))
    return F.pad(shifted[..., :p], (num_special, 0, num_special, 0))


def resize_offsets(table: Float[Tensor, "offsets k"], old: Grid, new: Grid) -> Float[Tensor, "offsets2 k"]:
    """A table for the grid `old` made to fit the grid `new`.

    A displacement (r, c) on the new grid is (r (R - 1) / (R2 - 1), c (C - 1) / (C2 - 1)) on the old, where the vectors
    at the four whole displacements around it are blended bilinearly. An offset can be two displacements (one to the
    right, or one down and all the way to the left): its vector is the mean over all pairs of patches that have it.
    Equal grids give the table itself. Raises ValueError for a table of another grid.
    """
    if table.shape[0] != num_offsets(old):
        raise ValueError(f"a table of {table.shape[0]} offsets does not fit a grid of {old[0]}x{old[1]}")
    if old == new:
        return table
    down, right = (_displacements(*sizes, table.device) for sizes in zip(old, new, strict=True))
    centre, new_centre = old[0] * old[1] - 1, new[0] * new[1] - 1
    total = torch.zeros(num_offsets(new), table.shape[1], dtype=torch.float64, device=table.device)
    pairs = torch.zeros(num_offsets(new), 1, dtype=torch.float64, device=table.device)
    count = (down.pairs[:, None] * right.pairs[None, :]).reshape(-1, 1)
    offset = (down.new[:, None] * new[1] + right.new[None, :]).flatten() + new_centre
    pairs.index_add_(0, offset, count)
    for step, share in down.corners():
        for other, other_share in right.corners():
            source = (step[:, None] * old[1] + other[None, :]).flatten() + centre
            weight = (share[:, None] * other_share[None, :]).reshape(-1, 1) * count
            total.index_add_(0, offset, weight * table.double()[source])
    return (total / pairs.clamp(min=1)).to(table.dtype)


class _displacements:  # noqa: N801 - a record of this file's
    """All displacements along one axis: on the new grid, how many pairs have each, and where they lie on the old."""

    def __init__(self, old: int, new: int, device: torch.device):
        self.new = torch.arange(1 - new, new, device=device)
        self.pairs = (new - self.new.abs()).double()
        place = self.new.double() * (old - 1) / max(new - 1, 1)
        self.low = place.floor().clamp(max=old - 1).long()
        self.high = (self.low + 1).clamp(max=old - 1)
        self.share = place - self.low

    def corners(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The whole displacements below and above, each with its share."""
        return (self.low, 1 - self.share), (self.high, self.share)
