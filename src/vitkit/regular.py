"""Opens regular files only, because opening a named pipe or a device by its name can block forever.

Level 0. Every file that a user or another file names is opened here, or checked here before a library opens it.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


class NotRegularError(ValueError):
    """Raised if a path is a named pipe, a device, a socket or a folder, but a regular file is required."""

    def __init__(self, path: str | os.PathLike[str], status: os.stat_result):
        self.kind = kind_of(status)
        super().__init__(f"{os.path.basename(path)} is {self.kind}, not a regular file")


def kind_of(status: os.stat_result) -> str:
    """Returns the kind of a path that is not a regular file, such as "a folder" or "a named pipe"."""
    return next((kind for check, kind in _KINDS if check(status.st_mode)), "a special file")


def problem(path: str | os.PathLike[str]) -> str:
    """Returns the reason why a path is not a regular file, such as "does not exist". Returns "" for a regular file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    return "" if stat.S_ISREG(status.st_mode) else f"is {kind_of(status)}, not a regular file"


def check_regular(path: str | os.PathLike[str], status: os.stat_result | None = None) -> os.stat_result:
    """Returns the `os.stat_result` of a path. Raises NotRegularError if the path is not a regular file."""
    status = os.stat(path) if status is None else status
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(path, status)
    return status


def open_descriptor(path: str | os.PathLike[str]) -> tuple[int, os.stat_result]:
    """Opens a regular file for reading. Returns the file descriptor and the `os.stat_result`.

    The caller must close the descriptor. Raises NotRegularError if the path is not a regular file, without blocking.
    """
    check_regular(path)  # before opening: a named pipe would wait for a writer, a device may act when it is opened
    # Without blocking, and checked again, in case it was replaced meanwhile.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    try:
        return descriptor, check_regular(path, os.fstat(descriptor))
    except NotRegularError:
        os.close(descriptor)
        raise


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a regular file for reading bytes. Raises NotRegularError for other kinds of files, without blocking."""
    return open(open_descriptor(path)[0], "rb")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of a regular file. Raises NotRegularError for other kinds of files."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns the text of a regular UTF-8 file. Raises ValueError if the bytes are not valid UTF-8."""
    try:
        return read_bytes(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"{Path(path).name} is not UTF-8 text") from None
