"""Rotary positions in two axes: queries and keys turned by angles that grow with row and column (DINOv3, section 3.2).

After Su et al. 2021 (RoFormer); the logit of two patches then depends on how far apart they are.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_periods(head_width: int, base: float = 100.0) -> Float[Tensor, " q"]:
    """The periods of a head's angles, base^(k / q) for k = 0 .. q - 1 with q a quarter of the head's width.

    In units of half a picture, which is why they do not depend on its resolution. Raises ValueError where the head's
    width is not a multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"axial rotary positions need heads of a width that is a multiple of 4, not {head_width}")
    quarter = head_width // 4
    return base ** (torch.arange(quarter, dtype=torch.float32) / quarter)


def axial_rotation(
    grid: tuple[int, int],
    head_width: int,
    *,
    base: float = 100.0,
    scale: Float[Tensor, ""] | float = 1.0,
    device: torch.device | None = None,
) -> Float[Tensor, "2 p k"]:
    """The cosines and sines that turn the patches of a grid of (rows, columns), float32, row-major.

    Rows and columns each span -1 to 1 whatever their number, a patch lies at its centre, and its angle is
    2 pi place / period. A head's width is a quarter of rows' angles, a quarter of columns', and both again, because
    channel c is turned together with channel c + k / 2. `scale` stretches the places (an augmentation of training).
    """
    periods = rotary_periods(head_width, base).to(device)
    rows, columns = ((2 * torch.arange(size, device=device) + 1) / size - 1 for size in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1) * scale
    angles = (2 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "b h n k"], rotation: Float[Tensor, "2 p k"]) -> Float[Tensor, "b h n k"]:
    """`x` with the last p of its n tokens, the patches, turned; special tokens stand before them and stay as they are.

    Channels c and c + k / 2 are the plane (a, b) that goes to (a cos - b sin, b cos + a sin).
    """
    special, patches = x.tensor_split([x.shape[2] - rotation.shape[1]], dim=2)
    first, second = patches.chunk(2, dim=-1)
    cosine, sine = rotation
    turned = patches * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([special, turned.to(x.dtype)], dim=2)
