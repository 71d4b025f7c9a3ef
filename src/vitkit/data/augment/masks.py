"""Random masks made of rectangular blocks of patches (BEiT, Bao et al. 2021, section 2.3)."""

import math
import random

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

ATTEMPTS = 10  # per block
ASPECT = 0.3  # height over width of a block is between this and its inverse


def block_masks(num: int, grid: tuple[int, int], ratio: float, smallest: int, *, exact: bool) -> Bool[Tensor, "b p"]:
    """Samples a mask for each of `num` images with torch's global generator. `ratio` is the fraction of masked patches.

    With `exact`, single patches are added or removed until the number is exact (BEiT v2); otherwise there may be fewer.
    """
    count = max(1, round(ratio * grid[0] * grid[1]))
    generator = random.Random(int(torch.randint(2**62, ())))
    masks = []
    for _ in range(num):
        mask = block_mask(grid, count, smallest, generator)
        if exact:
            flat = mask.reshape(-1)
            surplus = int(flat.sum()) - count
            flat[generator.sample([*np.flatnonzero(flat == (surplus > 0))], abs(surplus))] = surplus < 0
        masks.append(torch.from_numpy(mask.reshape(-1)))
    return torch.stack(masks)


def block_mask(grid: tuple[int, int], count: int, smallest: int, generator: random.Random) -> np.ndarray:
    """Samples a mask by adding rectangular blocks until `count` patches are masked or no further block fits.

    The area of a block is uniform between `smallest` and the number of patches left to mask; height over width is
    log-uniform between 0.3 and its inverse. A block is smaller than the grid in both directions.
    """
    mask = np.zeros(grid, dtype=bool)
    left = count
    while left > 0:
        for _ in range(ATTEMPTS):
            area = generator.uniform(smallest, left)
            aspect = math.exp(generator.uniform(math.log(ASPECT), -math.log(ASPECT)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= grid[0] or width >= grid[1]:
                continue
            top, start = generator.randint(0, grid[0] - height), generator.randint(0, grid[1] - width)
            block = mask[top : top + height, start : start + width]
            new = block.size - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left -= new
                break
        else:
            break
    return mask
