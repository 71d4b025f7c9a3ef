"""The file names taken for pictures where a folder is searched; what is in them is for `open_image` to judge."""

from typing import Final

SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"),
        *(".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    )
)
