"""Position tables of the twin: sine-cosine, and the dialects of resizing, each a matrix a grid axis.

Every dialect of `vitkit.layers.RESIZES` is linear in the table and separable, so a resize is two small constant
matrices, made by numpy in float64 when the shapes are known: it jits, differentiates and shards as any product.
"""

from collections.abc import Callable
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Grid = tuple[int, int]


def sincos2d(grid: Grid, width: int, *, temperature: float = 10_000.0) -> Float[np.ndarray, "n d"]:
    """The fixed table of MoCo v3 and big_vision: sin x, cos x, sin y, cos y, x the column; see `vitkit.layers`."""
    if width % 4 or width < 8:
        raise ValueError(f"a sine-cosine table needs a width that is a multiple of 4 and at least 8, not {width}")
    omega = temperature ** -(np.arange(width // 4) / (width // 4 - 1))
    y, x = (axis.reshape(-1, 1) * omega for axis in np.indices(grid, dtype=np.float64))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel: a is -0.75 in PyTorch and OpenCV, -0.5 in PIL and where there is antialiasing."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _bicubic_taps(old: int, new: int, scale: float) -> np.ndarray:
    matrix = np.zeros((new, old))
    centre = (np.arange(new) + 0.5) / scale - 0.5
    for tap in range(-1, 3):
        index = np.floor(centre) + tap
        # Taps beyond the border count for the border itself.
        np.add.at(matrix, (np.arange(new), index.clip(0, old - 1).astype(int)), _cubic(centre - index, -0.75))
    return matrix


def _bicubic(old: int, new: int) -> np.ndarray:
    return _bicubic_taps(old, new, new / old)


def _bicubic_offset(old: int, new: int) -> np.ndarray:
    return _bicubic_taps(old, new, (new + 0.1) / old)


def _bicubic_antialias(old: int, new: int) -> np.ndarray:
    stretch = max(old / new, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * old / new
    matrix = _cubic((np.arange(old)[None] + 0.5 - centre) / stretch, -0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


def _bilinear_corners(old: int, new: int) -> np.ndarray:
    place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return np.maximum(1.0 - np.abs(place[:, None] - np.arange(old)[None]), 0.0)


def _bilinear_antialias(old: int, new: int) -> np.ndarray:
    stretch = max(old / new, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * old / new
    matrix = np.maximum(1.0 - np.abs((np.arange(old)[None] + 0.5 - centre) / stretch), 0.0)
    return matrix / matrix.sum(axis=1, keepdims=True)


RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": _bicubic,
    "bicubic_antialias": _bicubic_antialias,
    "bilinear_corners": _bilinear_corners,
    "bicubic_offset": _bicubic_offset,
    "bilinear_antialias": _bilinear_antialias,
}


@lru_cache(maxsize=256)
def resize_matrix(old: int, new: int, dialect: str) -> Float[np.ndarray, "new old"]:
    """The weights of the `old` rows of a grid in each of the `new` ones, float32."""
    if dialect not in RESIZES:
        raise ValueError(f"unknown way to resize positions '{dialect}'; there is {', '.join(RESIZES)}")
    return RESIZES[dialect](old, new).astype(np.float32)


def resize_positions(table: Float[Array, "n d"], old: Grid, new: Grid, dialect: str) -> Float[Array, "m d"]:
    """A learned table for a grid `old` made to fit the grid `new`: the twin of `vitkit.layers.resize_positions`."""
    rows, columns = (resize_matrix(*sizes, dialect) for sizes in zip(old, new, strict=True))
    if table.shape[0] != old[0] * old[1]:
        raise ValueError(f"a table of {table.shape[0]} positions does not fit a grid of {old[0]}x{old[1]}")
    if old == new:
        return table
    picture = table.astype(jnp.float32).reshape(*old, -1)
    resized = jnp.einsum("rp,cq,pqd->rcd", rows, columns, picture, precision="highest")
    return resized.reshape(new[0] * new[1], -1).astype(table.dtype)
