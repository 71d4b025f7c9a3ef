"""Random masks of grids of patches, in blocks (BEiT, Bao et al. 2021, section 2.3)."""

import math
import random

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

ATTEMPTS = 10  # at placing a block
ASPECT = 0.3  # of a block: between this and its inverse


def block_masks(num: int, grid: tuple[int, int], share: float, smallest: int, *, exact: bool) -> Bool[Tensor, "b p"]:
    """The masks of that many pictures, each its own, of that share of patches; drawn from torch's generator.

    `exact` adds or frees single patches until the number is right (BEiT v2); without, a picture may have fewer.
    """
    count = max(1, round(share * grid[0] * grid[1]))
    lot = random.Random(int(torch.randint(2**62, ())))
    masks = []
    for _ in range(num):
        mask = block_mask(grid, count, smallest, lot)
        if exact:
            flat = mask.reshape(-1)
            surplus = int(flat.sum()) - count
            flat[lot.sample([*np.flatnonzero(flat == (surplus > 0))], abs(surplus))] = surplus < 0
        masks.append(torch.from_numpy(mask.reshape(-1)))
    return torch.stack(masks)


def block_mask(grid: tuple[int, int], count: int, smallest: int, lot: random.Random) -> np.ndarray:
    """Blocks until `count` patches are masked or none fits any more (algorithm 1; the published code).

    A block's area is uniform between `smallest` and what is left to mask, its shape log-uniform between 0.3 and its
    inverse; it is smaller than the grid both ways.
    """
    mask = np.zeros(grid, dtype=bool)
    left = count
    while left > 0:
        for _ in range(ATTEMPTS):
            area = lot.uniform(smallest, left)
            aspect = math.exp(lot.uniform(math.log(ASPECT), -math.log(ASPECT)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid[0] or width >= grid[1]:
                continue
            top, start = lot.randint(0, grid[0] - height), lot.randint(0, grid[1] - width)
            block = mask[top : top + height, start : start + width]
            new = block.size - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left -= new
                break
        else:
            break
    return mask
