"""Conversion of samples of any bit depth to 8 bits.

The rules for files and arrays:

    1 bit, bool         False is 0, True is 255
    8 bits              unchanged
    9 to 16 bits        the most significant 8 bits: `value >> (bits - 8)`
    16 bits signed      negative values are 0, others `value >> 7`
    32 bits             the most significant 8 bits of unsigned values, or of the positive half of signed values
    floats              0 to 1 maps to 0 to 255, rounded to nearest; see `floats_to_bytes` for other ranges
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

#: Tolerance of the range of floats, for rounding errors of earlier arithmetic.
_SLACK: Final = 1e-3
#: Samples that are converted at a time.
_CHUNK: Final = 1 << 20


def _in_chunks(convert: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> UInt8[np.ndarray, "*s"]:
    """Convert some rows at a time, so that wide intermediate values exist only for a part of the image."""
    done = np.empty(values.shape, np.uint8)
    rows = max(1, _CHUNK // max(1, values[:1].size))
    for start in range(0, values.shape[0], rows):
        done[start : start + rows] = convert(values[start : start + rows])
    return done


def integers_to_bytes(values: Integer[np.ndarray, "*s"], bits: int) -> UInt8[np.ndarray, "*s"]:
    """Return the most significant 8 of `bits` bits; negative values become 0, fewer than 8 bits are unchanged."""
    return _in_chunks(lambda chunk: np.clip(chunk >> max(bits - 8, 0), 0, 255), values)


def floats_to_bytes(values: Float[np.ndarray, "*s"], *, clip: bool) -> UInt8[np.ndarray, "*s"]:
    """Convert floats to 8 bits, rounded to nearest.

    The largest value determines white: 1 if it is at most 1, else 255 if it is at most 255, else 65535. With `clip`,
    for files, other values are clipped and NaN becomes 0. Without, for arrays, other values raise ValueError, because
    the array is probably normalised already.
    """
    finite = np.isfinite(values)
    if not finite.all():
        if not clip:
            raise ValueError("the image contains NaN or infinite values")
        values = np.where(finite, values, 0)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not clip and (low < -_SLACK or high > 65535 + _SLACK):
        raise ValueError(
            f"a float image must have values in [0, 1] or [0, 255], got {low:.4g} to {high:.4g}; "
            "pass the image before it is normalised"
        )
    white = 1.0 if high <= 1 + _SLACK else 255.0 if high <= 255 + _SLACK else 65535.0
    return _in_chunks(lambda chunk: np.rint(np.clip(chunk.astype(np.float64) * (255.0 / white), 0, 255)), values)


def array_to_bytes(values: np.ndarray) -> UInt8[np.ndarray, "*s"]:
    """Convert a numeric array to 8 bits by the rules above.

    uint16 has 16 bits. Other integer types have 8 bits if all values are at most 255, else 16. Raises ValueError for
    other types and ranges.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return _booleans(values)
    if values.dtype == np.uint16:
        return integers_to_bytes(values, 16)
    if np.issubdtype(values.dtype, np.integer):
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > 65535:
            raise ValueError(f"an integer image must have values from 0 to 255 or 65535, got {low} to {high}")
        return integers_to_bytes(values, 8 if high <= 255 else 16)
    if np.issubdtype(values.dtype, np.floating):
        return floats_to_bytes(values, clip=False)
    raise ValueError(f"an image must have integers, floats or booleans, got {values.dtype}")


def _booleans(values: Bool[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    return values.astype(np.uint8) * np.uint8(255)
