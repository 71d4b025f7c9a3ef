"""Samples of any depth to 8 bits: the one place that knows what white is.

The rules, for files and arrays alike:

    1 bit, bool         False is 0, True is 255
    8 bits              as they are
    9 to 16 bits        the most significant 8 bits: `value >> (bits - 8)`
    16 bits signed      negative is 0, then `value >> 7`
    32 bits             the most significant 8 bits, of unsigned or of the positive half
    floats              0 to 1 becomes 0 to 255, rounded to nearest; see `floats_to_bytes` for other ranges
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

#: Floats may miss 0 and 1 (or 255) by this much, which arithmetic does to honest pictures.
_SLACK: Final = 1e-3
#: Samples that are converted at a time.
_PIECE: Final = 1 << 20


def _in_pieces(convert: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> UInt8[np.ndarray, "*s"]:
    """Convert some rows at a time, so that wide intermediate numbers never exist for a whole picture."""
    done = np.empty(values.shape, np.uint8)
    rows = max(1, _PIECE // max(1, values[:1].size))
    for start in range(0, values.shape[0], rows):
        done[start : start + rows] = convert(values[start : start + rows])
    return done


def integers_to_bytes(values: Integer[np.ndarray, "*s"], bits: int) -> UInt8[np.ndarray, "*s"]:
    """The most significant 8 of `bits` bits; negative values are black. Fewer than 8 bits are taken as they are."""
    return _in_pieces(lambda piece: np.clip(piece >> max(bits - 8, 0), 0, 255), values)


def floats_to_bytes(values: Float[np.ndarray, "*s"], *, clip: bool) -> UInt8[np.ndarray, "*s"]:
    """Floats to 8 bits, rounded to nearest.

    The largest value decides for the whole array what white is: up to 1 it is 1, up to 255 it is 255, up to 65535 it
    is 65535. With `clip`, for files, anything else is clipped and what is not a number is black; without, for arrays
    from a program, it is an error, since the array is most likely normalised already.
    """
    finite = np.isfinite(values)
    if not finite.all():
        if not clip:
            raise ValueError("the picture holds NaN or infinite values")
        values = np.where(finite, values, 0)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not clip and (low < -_SLACK or high > 65535 + _SLACK):
        raise ValueError(
            f"a float picture has values in [0, 1] or [0, 255], got {low:.4g} to {high:.4g}; "
            "give the picture before it is normalised"
        )
    white = 1.0 if high <= 1 + _SLACK else 255.0 if high <= 255 + _SLACK else 65535.0
    return _in_pieces(lambda piece: np.rint(np.clip(piece.astype(np.float64) * (255.0 / white), 0, 255)), values)


def array_to_bytes(values: np.ndarray) -> UInt8[np.ndarray, "*s"]:
    """Any numeric array to 8 bits by the rules above.

    Whole numbers wider than 8 bits are taken as 8-bit values when all are at most 255 and the type is not uint16 (a
    type that only pictures of 16 bits have), else as 16-bit values. Errors: ValueError for other types and ranges.
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
            raise ValueError(f"a whole-number picture has values from 0 to 255 or 65535, got {low} to {high}")
        return integers_to_bytes(values, 8 if high <= 255 else 16)
    if np.issubdtype(values.dtype, np.floating):
        return floats_to_bytes(values, clip=False)
    raise ValueError(f"a picture is made of whole numbers, floats or booleans, got an array of {values.dtype}")


def _booleans(values: Bool[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    return values.astype(np.uint8) * np.uint8(255)
