"""Parsers of image file headers, one module per format. Every value in a file is validated before use.

Functions of each file:

    sniff(data: bytes) -> bool
        Returns whether the first bytes (32 are enough) are of this format.
    read(data: bytes, limits: Limits, allow_truncated: bool) -> Header
        Parses the structure without decoding; returns the size, a file with the first frame only, and the required
        metadata. Raises ImageError. `check_size` is called as soon as the size is known, before any larger allocation.

Lengths and offsets are compared with the size of the file before use; every loop is bounded.
"""

from typing import Final

from vitkit.images.errors import ImageError, Limits

#: Maximum number of chunks, segments or directory entries; real files have at most some thousands.
MAX_PARTS: Final = 65_536

#: Maximum size of an ICC profile in bytes; the largest printer profiles have 3 MB.
MAX_PROFILE: Final = 4 << 20

#: For larger pixel data, truncation is checked before memory is allocated.
BIG: Final = 8 << 20


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raises ImageError if an image has no pixels (corrupt) or too many pixels (too_many_pixels)."""
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"the image has {width} x {height} pixels; expected at least 1 x 1")
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the image has {width} x {height} = {width * height} pixels; the limit max_pixels is {limits.max_pixels}",
        )


def check_frames(frames: int, limits: Limits) -> None:
    """Raises ImageError (too_large) if a file has too many frames."""
    if frames > limits.max_frames:
        raise ImageError("too_large", f"the file has too many frames; the limit max_frames is {limits.max_frames}")


def truncated() -> ImageError:
    """Returns the error for a truncated file."""
    return ImageError("truncated", "the image file is truncated")


def corrupt(what: str) -> ImageError:
    """Returns the error for a file that violates its format. `what` describes the violation."""
    return ImageError("corrupt", f"the file is damaged: {what}")
