"""Reads the bytes of an image file, up to the limit on the file size."""

import os
import re
from collections.abc import Callable
from io import BytesIO, FileIO
from typing import BinaryIO, Final

from vitkit.images.errors import ImageError, Limits
from vitkit.images.probe import check_bytes, detect_format
from vitkit.regular import NotRegularError, open_descriptor
from vitkit.text import printable

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

#: File name suffixes of images, for searching a folder. `open_image` decides by the content.
SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"),
        *(".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"),
    )
)
#: Suffixes of array files, which are images where a folder has no others.
ARRAY_SUFFIXES: Final = frozenset((".npy",))
_CHUNK: Final = 1 << 20
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def reason_of(error: OSError | ValueError) -> str:
    """Returns why a path cannot be opened, read or listed, such as "input/output error"."""
    if isinstance(error, ValueError):
        return "the path contains invalid characters"
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


def _read_file(path: str | os.PathLike[str], limits: Limits, check: Callable[[bytes], object]) -> bytes:
    if isinstance(path, str) and _URL.match(path) and not os.path.exists(path):
        raise ImageError("unreadable", "the path is a URL; download the image and pass the path of the file")
    try:
        descriptor, status = open_descriptor(path)
    except NotRegularError as error:
        raise ImageError("unreadable", f"the path is {error.kind}, not a file") from None
    except (OSError, ValueError) as error:
        reason = {FileNotFoundError: "it does not exist", PermissionError: "permission denied"}.get(type(error))
        raise ImageError("unreadable", f"the file cannot be opened: {reason or reason_of(error)}") from None
    # Without a buffer, a single read of the known size fills the result without a copy.
    with open(descriptor, "rb", buffering=0) as file:
        return _read_stream(file, limits, check, status.st_size)


def _read_stream(
    file: BinaryIO | FileIO, limits: Limits, check: Callable[[bytes], object], size: int | None = None
) -> bytes:
    """Reads a file from the start. Stops after one kilobyte if the file is not an image.

    `check` raises the error for the first kilobyte, and `size` is the size of a regular file. The result is at most one
    chunk larger than the limit.
    """
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        start = file.read(1024)
        if not isinstance(start, bytes):
            raise TypeError(
                f"the image file is opened in text mode: read() returned {type(start).__name__}, not bytes; "
                'open it in binary mode with open(path, "rb")'
            )
        check(start)
        if size is not None:
            check_bytes(size, limits)
            file.seek(0)
            data = file.read(size) or b""
            if len(data) == size:
                return data
            start = data  # it was truncated meanwhile, or a single read is limited
        # In chunks: a single read of the maximum size would allocate all of it. BytesIO returns its buffer uncopied.
        buffer = BytesIO()
        buffer.write(start)
        while buffer.tell() <= limits.max_bytes and (chunk := file.read(_CHUNK)):
            buffer.write(chunk)
    except OSError as error:
        raise ImageError("unreadable", f"the file cannot be read: {reason_of(error)}") from None
    return buffer.getvalue()


def read_source(source: Source, limits: Limits, check: Callable[[bytes], object] = detect_format) -> bytes:
    """Returns the bytes of an image given as a path, bytes or an open binary file. Raises ImageError or TypeError.

    `check` gets the first kilobyte of a file and raises ImageError if the file should not be read.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return _read_file(source, limits, check)
    if hasattr(source, "read"):
        return _read_stream(source, limits, check)
    raise wrong_type(source)


def describe(value: object) -> str:
    """Returns a short description of a value for an error message: its type, and its shape, dtype, keys or length."""
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "dtype"):
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
        return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind} of shape {tuple(shape)} and dtype {dtype}"
    if isinstance(value, dict):
        keys = ", ".join(printable(key)[:40] for key in list(value)[:5])
        return f"a dict with the keys {keys}{', ...' if len(value) > 5 else ''}" if value else "an empty dict"
    if isinstance(value, list | tuple):
        parts = ", ".join(type(each).__name__ for each in value[:5])
        return f"a {kind} ({parts}{', ...' if len(value) > 5 else ''})"
    return "None" if value is None else f"an object of type {kind}"


def _is_label(value: object) -> bool:
    return isinstance(value, int) or (hasattr(value, "shape") and len(getattr(value, "shape", ())) < 2)


def wrong_type(value: object) -> TypeError:
    """Returns the error for a value that is not an image. It says what to pass instead."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return TypeError(
            f"{describe(value)} is not an image file; expected a path, bytes or an open binary file: "
            "vitkit.images.to_rgb converts images in memory"
        )
    hint = ""
    if isinstance(value, tuple | list) and len(value) == 2 and _is_label(value[1]):
        hint = "; pass the images without labels, such as [image for image, label in dataset]"
    elif isinstance(value, list | tuple):
        hint = "; pass one flat list of images"
    elif isinstance(value, dict):
        hint = f"; pass the image in it, such as [row[{next(iter(value), 'image')!r}] for row in dataset]"
    return TypeError(
        f"{describe(value)} is not an image; expected a path, bytes or an open binary file, or a PIL image, numpy "
        f"array or torch tensor{hint}"
    )
