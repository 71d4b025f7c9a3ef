"""One file per picture format, each with a header reader that trusts nothing.

Contract of a file here:

    sniff(data: bytes) -> bool
        whether the first bytes (32 are enough) are this format's.
    read(data: bytes, limits: Limits, allow_truncated: bool) -> Header
        walks the file's own structure without decoding, and returns its size, its first frame's bytes and the
        metadata that matter; raises ImageError. The size is checked by `check_size` as soon as it is known, before
        anything that grows with it.

A length or an offset from the file is compared with the file before it is used; every loop is bounded.
"""

from typing import Final

from vitkit.images.errors import ImageError, Limits

#: Chunks, segments or directory entries in one file; real pictures have some thousands at most.
MAX_PARTS: Final = 65_536

#: Bytes of an ICC profile that is still read; the largest printer profiles have 3 MB.
MAX_PROFILE: Final = 4 << 20

#: From so many bytes of pixels on, a missing end is looked for before the pixels are given memory.
BIG: Final = 8 << 20


def check_size(width: int, height: int, limits: Limits) -> None:
    """Refuse a picture without pixels or with too many; errors: corrupt, too_many_pixels."""
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"the picture is {width} x {height} pixels, so there is nothing to see")
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the picture has {width} x {height} = {width * height} pixels; the limit is {limits.max_pixels}",
        )


def check_frames(frames: int, limits: Limits) -> None:
    """Refuse a file with too many frames; error: too_large."""
    if frames > limits.max_frames:
        raise ImageError("too_large", f"the file has more than {limits.max_frames} frames, which is the limit")


def truncated() -> ImageError:
    """The error of a file that ends before its picture does."""
    return ImageError("truncated", "the file ends before its picture does")


def corrupt(what: str) -> ImageError:
    """The error of a file that breaks its format's rules; `what` says which, in our own words."""
    return ImageError("corrupt", f"the file is damaged: {what}")
