"""Read the bytes of an image file, up to the byte limit."""

import os
import stat
from typing import BinaryIO, Final

from vitkit.images.errors import ImageError, Limits
from vitkit.images.probe import recognise

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

#: File name suffixes of images, for searching a folder. `open_image` decides by the content.
SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"),
        *(".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    )
)
_PIECE: Final = 1 << 20


def _read_file(path: str | os.PathLike[str], limits: Limits) -> bytes:
    try:
        # Not blocking: a named pipe without a writer would hold a whole batch up.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = {FileNotFoundError: "it does not exist", PermissionError: "permission denied"}.get(type(error))
        raise ImageError("unreadable", f"the file cannot be opened: {reason or 'the system refuses'}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError("unreadable", "this is a folder or a device, not a file")
    with open(descriptor, "rb") as file:
        return _read_stream(file, limits)


def _read_stream(file: BinaryIO, limits: Limits) -> bytes:
    """All bytes of a file from its start, but no more than a kilobyte of one that is no picture."""
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        start = file.read(1024)
        if not isinstance(start, bytes):
            raise TypeError(f"a picture file is opened in binary mode, but reading gave {type(start).__name__}")
        recognise(start)
        # Piece by piece: a read of all that is allowed would ask for all that memory at once.
        pieces, total = [start], len(start)
        while total <= limits.max_bytes and (piece := file.read(_PIECE)):
            pieces.append(piece)
            total += len(piece)
    except OSError:
        raise ImageError("unreadable", "the file cannot be read: the system reports an error") from None
    return b"".join(pieces)


def read_source(source: Source, limits: Limits) -> bytes:
    """The bytes of a path, of bytes, or of an open binary file; errors: ImageError, TypeError for anything else."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(source, limits)
    if hasattr(source, "read"):
        return _read_stream(source, limits)
    raise TypeError(f"a picture comes as a path, bytes or an open binary file, got {type(source).__name__}")
