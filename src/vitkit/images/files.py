"""Read the bytes of an image file, up to the byte limit."""

import os
import re
import stat
from typing import BinaryIO, Final

from vitkit.images.errors import ImageError, Limits
from vitkit.images.probe import detect_format

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

#: File name suffixes of images, for searching a folder. `open_image` decides by the content.
SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"),
        *(".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    )
)
_CHUNK: Final = 1 << 20
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def _read_file(path: str | os.PathLike[str], limits: Limits) -> bytes:
    if isinstance(path, str) and _URL.match(path) and not os.path.exists(path):
        raise ImageError("unreadable", "it is a URL; download the file and pass its path")
    try:
        # Non-blocking: a named pipe without a writer would block the batch.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = {FileNotFoundError: "it does not exist", PermissionError: "permission denied"}.get(type(error))
        raise ImageError(
            "unreadable", f"the file cannot be opened: {reason or 'the operating system reports an error'}"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError("unreadable", "the path is a folder or a device, not a file")
    with open(descriptor, "rb") as file:
        return _read_stream(file, limits)


def _read_stream(file: BinaryIO, limits: Limits) -> bytes:
    """Read a file from its start; stop after one kilobyte if it is not an image."""
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        start = file.read(1024)
        if not isinstance(start, bytes):
            raise TypeError(f"image files must be opened in binary mode, but read() returned {type(start).__name__}")
        detect_format(start)
        # In chunks: a single read of the maximum size would allocate all of it.
        chunks, total = [start], len(start)
        while total <= limits.max_bytes and (chunk := file.read(_CHUNK)):
            chunks.append(chunk)
            total += len(chunk)
    except OSError:
        raise ImageError("unreadable", "the file cannot be read: the operating system reports an error") from None
    return b"".join(chunks)


def read_source(source: Source, limits: Limits) -> bytes:
    """Return the bytes of a path, of bytes, or of an open binary file. Raises ImageError, or TypeError for others."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(source, limits)
    if hasattr(source, "read"):
        return _read_stream(source, limits)
    raise TypeError(f"expected a path, bytes or an open binary file, got {type(source).__name__}")
