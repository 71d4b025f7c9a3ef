"""Converts pixel values of any bit depth to 8 bits.

The rules for files and arrays:

    1 bit, bool         False is 0, True is 255
    8 bits              unchanged
    9 to 16 bits        the most significant 8 bits: `value >> (bits - 8)`
    16 bits signed      negative values are 0, others `value >> 7`
    32 bits             as 8 bits if no value is above 255, as 16 bits if none is above 65535; otherwise the most
                        significant 8 bits of unsigned values, or of the positive half of signed values
    floats              0 to 1 maps to 0 to 255, rounded to nearest; see `floats_to_bytes` for other ranges
"""

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

#: Tolerance of the range of floats, for rounding errors of earlier arithmetic.
_SLACK: Final = 1e-3
#: Samples that are converted at a time.
_CHUNK: Final = 1 << 20


def _in_chunks(convert: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> UInt8[np.ndarray, "*s"]:
    """Converts an image in chunks of rows, to limit the memory for temporary arrays."""
    done = np.empty(values.shape, np.uint8)
    rows = max(1, _CHUNK // max(1, values[:1].size))
    for start in range(0, values.shape[0], rows):
        done[start : start + rows] = convert(values[start : start + rows])
    return done


def integers_to_bytes(values: Integer[np.ndarray, "*s"], bits: int) -> UInt8[np.ndarray, "*s"]:
    """Converts `bits`-bit integers to 8 bits. The lower bits are dropped, and negative values become 0."""
    return _in_chunks(lambda chunk: np.clip(chunk >> max(bits - 8, 0), 0, 255), values)


def wide_to_bytes(values: Integer[np.ndarray, "*s"], bits: int) -> UInt8[np.ndarray, "*s"]:
    """Converts integers to 8 bits. The largest value determines whether the input has 8, 16 or `bits` bits.

    Most files with 32 bits contain 8 or 16-bit values, because their writer had no narrower type.
    """
    high = int(values.max()) if values.size else 0
    return integers_to_bytes(values, 8 if high <= 255 else 16 if high <= 65535 else bits)


def floats_to_bytes(
    values: Float[np.ndarray, "*s"], *, clip: bool, data_range: float | None = None
) -> UInt8[np.ndarray, "*s"]:
    """Converts floating-point values to 8 bits, rounded to nearest.

    White is `data_range`. By default, the largest value determines it: 1 if it is at most 1, else 255 if it is at most
    255, else 65535. With `clip`, for files, other values are clipped and NaN becomes 0. Without, for arrays, other
    values raise ValueError, because the array is probably normalized already, and an array that contains only 0 and 1
    raises a warning, because it may be a dark image with values from 0 to 255.
    """
    if data_range is not None and not 0 < data_range < math.inf:
        raise ValueError(f"data_range must be a positive number (the value of white), got {data_range!r}")
    low, high, is_finite = _finite_range(values)
    if not is_finite and not clip:
        raise ValueError("the image contains NaN or infinite values; all pixel values must be finite")
    largest = 65535 if data_range is None else data_range
    if not clip and (low < -_SLACK or high > largest + _SLACK):
        expected = "[0, 1] or [0, 255]" if data_range is None else f"[0, {data_range:g}]"
        raise ValueError(
            f"a float image must have values in {expected}, got {low:.4g} to {high:.4g}; "
            "pass the image before it is normalized"
        )
    if data_range is None:
        data_range = 1.0 if high <= 1 + _SLACK else 255.0 if high <= 255 + _SLACK else 65535.0
        if not clip and high == 1 and _is_ambiguous(values):
            _warn_of_range()
    scale = 255.0 / data_range

    def convert(chunk: np.ndarray) -> np.ndarray:
        if not is_finite:  # before the cast, which warns about signaling NaN
            chunk = np.where(np.isfinite(chunk), chunk, np.zeros((), chunk.dtype))
        chunk = chunk.astype(np.float64)
        return np.rint(np.clip(chunk * scale, 0, 255))

    # Signaling NaN and values near the largest float would warn, and are then replaced and clipped.
    with np.errstate(invalid="ignore", over="ignore"):
        return _in_chunks(convert, values)


def _finite_range(values: Float[np.ndarray, "*s"]) -> tuple[float, float, bool]:
    """Returns the minimum and maximum, with NaN and infinity replaced by 0, and whether all values are finite."""
    low, high, is_finite = math.inf, -math.inf, True
    rows = max(1, _CHUNK // max(1, values[:1].size))
    for start in range(0, values.shape[0], rows):
        chunk = values[start : start + rows]
        finite = np.isfinite(chunk)
        if not finite.all():
            chunk, is_finite = np.where(finite, chunk, 0), False
        if chunk.size:
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
    return (low, high, is_finite) if low <= high else (0.0, 0.0, is_finite)


def _is_ambiguous(values: Float[np.ndarray, "*s"]) -> bool:
    """Returns whether all values are 0 or 1 and both occur, so that the range may be 0..1 or 0..255."""
    ones = np.count_nonzero(values == 1)
    return bool(0 < ones < values.size and ones + np.count_nonzero(values == 0) == values.size)


@cache
def _warn_of_range() -> None:
    """Warns, once per process, that a floating-point image has only the values 0 and 1, so its range is ambiguous."""
    warnings.warn(
        "a float image contains only the values 0 and 1; 1 is converted to white. If its values are from 0 to 255, "
        "pass data_range=255 or an image of type uint8",
        stacklevel=2,
    )


def array_to_bytes(values: np.ndarray, data_range: float | None = None) -> UInt8[np.ndarray, "*s"]:
    """Converts a numeric array to 8 bits. `data_range` is the value of white in floating-point images.

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
            raise ValueError(f"an integer image must have values from 0 to 65535, got {low} to {high}")
        return wide_to_bytes(values, 16)
    if np.issubdtype(values.dtype, np.floating):
        return floats_to_bytes(values, clip=False, data_range=data_range)
    raise ValueError(f"an image must contain integers, floats or booleans, got {values.dtype}")


def _booleans(values: Bool[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    return values.astype(np.uint8) * np.uint8(255)
