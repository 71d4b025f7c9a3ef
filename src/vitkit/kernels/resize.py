"""Resizing and cropping of RGB images with a C kernel that uses Pillow's fixed-point arithmetic."""

import ctypes

import numpy as np
from jaxtyping import UInt8

from vitkit.kernels import library

Size = tuple[int, int]


class Resize(ctypes.Structure):
    """Arguments of one call of the resize kernel. The layout is that of `struct resize` in the C file."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 4),
        ("window", ctypes.c_int64 * 4),
        ("cubic", ctypes.c_int32),
        ("rows_first", ctypes.c_int32),
    )


def available() -> bool:
    """Returns whether the kernel is compiled and the CPU supports AVX2."""
    return library.routine("resize", "resize", "images") is not None


def resize(
    pixels: UInt8[np.ndarray, "rows columns 3"],
    to: Size,
    window: tuple[int, int, int, int],
    *,
    cubic: bool,
    rows_first: bool,
) -> UInt8[np.ndarray, "crop_rows crop_columns 3"]:
    """Resizes an image to the size `to` (height, width), then crops it to `window` (top, left, height, width).

    The filter is bicubic (a = -0.5) or bilinear, scaled by the downsampling factor (antialiasing). `rows_first` runs
    the vertical pass before the horizontal one. Raises RuntimeError if the kernel is not `available`. Raises ValueError
    for anything but a non-empty RGB image and a window inside the resized image, and MemoryError if an allocation
    fails.
    """
    routine = library.required("resize", "resize", "images")
    top, left, rows, columns = window
    inside = 0 <= top < top + rows <= to[0] and 0 <= left < left + columns <= to[1]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size or not inside:
        raise ValueError(
            f"the resize kernel needs uint8 RGB pixels and a window inside the resized image; "
            f"got dtype {pixels.dtype}, shape {pixels.shape}, resized size {to} and window {window}"
        )
    pixels = np.ascontiguousarray(pixels)
    out = np.empty((rows, columns, 3), np.uint8)
    call = Resize(pixels.ctypes.data, out.ctypes.data, (*pixels.shape[:2], *to), window, cubic, rows_first)
    if routine(ctypes.byref(call)):
        raise MemoryError("the resize kernel could not allocate its buffers")
    return out
