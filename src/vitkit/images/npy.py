"""Reads arrays in numpy's `.npy` format as images. The header is parsed strictly, and nothing is unpickled."""

import math
import re
import struct
from typing import Final

import numpy as np

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import corrupt, truncated

_MAGIC: Final = b"\x93NUMPY"
#: Bytes of a header; numpy writes about 100.
_MAX_HEADER: Final = 10_000
_MAX_SIDE: Final = 9_999_999_999
_DESCR: Final = re.compile(r"""['"]descr['"]\s*:\s*['"]([<>|=]?)([biufO])(\d{0,2})['"]""")
_ORDER: Final = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE: Final = re.compile(r"""['"]shape['"]\s*:\s*\(([\d, ]{1,80})\)""")
_SIZES: Final = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a `.npy` file."""
    return data.startswith(_MAGIC)


def read(data: bytes, limits: Limits) -> np.ndarray:
    """Returns the array in a file, without a copy, after checking the header against the file size and the limits.

    It has two axes (rows, columns) or three, one of which holds the bands. Raises ImageError.
    """
    kind, fortran, shape, start = _header(data)
    if len(shape) not in (2, 3):
        raise ImageError("unsupported_format", f"the array has {len(shape)} axes; an image has 2 or 3")
    if 0 in shape:
        raise corrupt(f"the array has the shape {shape}; no axis may be empty")
    values = math.prod(shape)
    if values > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the array has the shape {shape} = {values} values; the limit max_pixels is {limits.max_pixels}",
        )
    size = values * kind.itemsize
    if len(data) - start < size:
        raise truncated()
    flat = np.frombuffer(data, kind, values, start)
    return flat.reshape(shape[::-1]).transpose() if fortran else flat.reshape(shape)


def _header(data: bytes) -> tuple[np.dtype, bool, tuple[int, ...], int]:
    """Returns the dtype, whether the array is in Fortran order, the shape, and the position of the values."""
    if len(data) < 12:
        raise truncated()
    if data[6] not in (1, 2, 3):
        raise ImageError("unsupported_format", f"the .npy file has format version {data[6]}; expected 1, 2 or 3")
    code, start = ("<H", 10) if data[6] == 1 else ("<I", 12)
    (length,) = struct.unpack_from(code, data, 8)
    if length > _MAX_HEADER:
        raise corrupt(f"the header of the .npy file has {length} bytes, more than the limit of {_MAX_HEADER}")
    if start + length > len(data):
        raise truncated()
    text = data[start : start + length].decode("latin-1")
    descr, order, shape = (pattern.search(text) for pattern in (_DESCR, _ORDER, _SHAPE))
    if descr is None or order is None or shape is None:
        raise ImageError("unsupported_format", "the .npy file has a damaged header or values that are not numbers")
    if descr[2] == "O":
        raise ImageError(
            "unsupported_format", "arrays of Python objects are not supported, because loading them can run code"
        )
    sides = tuple(int(side) for side in shape[1].replace(",", " ").split())
    if max(sides, default=0) > _MAX_SIDE:
        raise corrupt("an axis of the array in the .npy file has a length of more than 10 digits")
    size = int(descr[3] or 0)
    if size not in _SIZES[descr[2]]:
        raise ImageError(
            "unsupported_format",
            f"the .npy array has dtype {descr[2]}{size}; expected bool, integer, float16, float32 or float64",
        )
    return np.dtype(f"{descr[1].replace('|', '')}{descr[2]}{size}"), order[1] == "True", sides, start + length
