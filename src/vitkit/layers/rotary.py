"""Axial rotary position embeddings (DINOv3, section 3.2; Su et al. 2021, RoFormer).

Queries and keys are rotated by angles proportional to row and column, so that the logit of two patches depends on their
relative position.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_periods(head_width: int, base: float = 100.0) -> Float[Tensor, " q"]:
    """Returns the periods of the rotations: base^(i / q) for i = 0 .. q - 1, where q is a quarter of the head width.

    Their unit is half the side of the image, so that they do not depend on the resolution. Raises ValueError if the
    head's width is not a multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"head width {head_width} is not a multiple of 4, which axial rotary position embeddings need")
    quarter = head_width // 4
    return base ** (torch.arange(quarter, dtype=torch.float32) / quarter)


def axial_rotation(
    grid: tuple[int, int],
    head_width: int,
    *,
    base: float = 100.0,
    scale: Float[Tensor, "..."] | float = 1.0,
    shift: Float[Tensor, "..."] | float = 0.0,
    device: torch.device | None = None,
) -> Float[Tensor, "2 p k"]:
    """Returns cosines and sines of the rotary embeddings of a grid (rows, columns), in float32 and row-major order.

    Rows and columns each span -1 to 1, the position of a patch is its center, and its angles are
    2 pi position / period. The channels of a head are a quarter for the row, a quarter for the column, and both again,
    because channel c is rotated together with channel c + k / 2. `shift` is added to the positions, then `scale`
    multiplies them (training augmentations); each is a number, or a tensor (1, 2) for rows and columns.
    """
    periods = rotary_periods(head_width, base).to(device)
    rows, columns = ((2 * torch.arange(size, device=device) + 1) / size - 1 for size in grid)
    positions = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    positions = (positions + shift) * scale
    angles = (2 * math.pi * positions[:, :, None] / periods).flatten(1).tile(2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "b h n k"], rotation: Float[Tensor, "2 p k"]) -> Float[Tensor, "b h n k"]:
    """Applies rotary embeddings to the patches, which are the last p tokens of `x`. Special tokens do not change.

    Channels c and c + k / 2 are a plane (a, b) that is rotated to (a cos - b sin, b cos + a sin).
    """
    special, patches = x.tensor_split([x.shape[2] - rotation.shape[1]], dim=2)
    first, second = patches.chunk(2, dim=-1)
    cosine, sine = rotation
    rotated = patches * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([special, rotated.to(x.dtype)], dim=2)
