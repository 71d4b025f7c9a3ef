"""Opens regular files only, because opening a named pipe or a device by its name can block forever.

Level 0. Every file that a user or another file names is opened here, or checked here before a library opens it.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


class NotRegularError(ValueError):
    """Raised for a path that is a named pipe, a device, a socket or a folder where a regular file is needed."""


def kind_of(status: os.stat_result) -> str:
    """Returns the kind of a path that is not a regular file, such as "a folder" or "a named pipe"."""
    return next((kind for check, kind in _KINDS if check(status.st_mode)), "not a regular file")


def check_regular(path: str | os.PathLike[str], status: os.stat_result | None = None) -> os.stat_result:
    """Returns the status of a regular file. Raises NotRegularError for anything else, and OSError without the file."""
    status = os.stat(path) if status is None else status
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(f"{os.path.basename(path)} is {kind_of(status)}; pass a regular file")
    return status


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading bytes. Raises NotRegularError for anything else; it never waits.

    The file is opened without blocking and checked again, in case it was replaced after the first check.
    """
    check_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        check_regular(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of a regular file. Raises the errors of `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns the text of a regular UTF-8 file. Raises the errors of `open_regular`, and ValueError for other text."""
    try:
        return read_bytes(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"{Path(path).name} is not UTF-8 text") from None
