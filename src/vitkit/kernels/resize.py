"""Resampling of RGB levels in fixed point by one call of C: the arithmetic of Pillow's resize, inside a window."""

import ctypes

import numpy as np
from jaxtyping import UInt8

from vitkit.kernels import library

Size = tuple[int, int]


class Resize(ctypes.Structure):
    """All that one call needs: `struct resize` of the C file."""

    _fields_ = (
        ("taken", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 4),
        ("window", ctypes.c_int64 * 4),
        ("cubic", ctypes.c_int32),
        ("rows_first", ctypes.c_int32),
    )


def available() -> bool:
    """Whether `resize` can be called here: it was compiled, and the CPU has AVX2."""
    return library.routine("resize", "resize", "pictures") is not None


def resize(
    pixels: UInt8[np.ndarray, "rows columns 3"],
    to: Size,
    window: tuple[int, int, int, int],
    *,
    cubic: bool,
    rows_first: bool,
) -> UInt8[np.ndarray, "crop_rows crop_columns 3"]:
    """The `window` (top, left, rows, columns) of the picture resized to `to` (rows, columns).

    The filter is bicubic (a = -0.5) or bilinear, as wide as the picture shrinks; `rows_first` does the vertical pass
    before the horizontal one. Raises RuntimeError where it is not `available`, ValueError for what is no RGB picture,
    an empty one, or a window that reaches beyond it; memory that is refused is a MemoryError.
    """
    routine = library.required("resize", "resize", "pictures")
    top, left, rows, columns = window
    inside = 0 <= top < top + rows <= to[0] and 0 <= left < left + columns <= to[1]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or not inside:
        raise ValueError(f"resize takes a window {window} of RGB levels, {pixels.dtype} {pixels.shape} made {to}")
    pixels = np.ascontiguousarray(pixels)
    out = np.empty((rows, columns, 3), np.uint8)
    call = Resize(pixels.ctypes.data, out.ctypes.data, (*pixels.shape[:2], *to), window, cubic, rows_first)
    if routine(ctypes.byref(call)):
        raise MemoryError("resizing found no memory to work in")
    return out
