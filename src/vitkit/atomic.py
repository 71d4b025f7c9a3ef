"""Atomic writes: after a crash or power failure, the target is either complete or unchanged.

Only this module renames files. Content is written to a temporary name in the same folder, flushed to disk (`fsync`) and
renamed; then the folder is flushed, so that the new name is on disk, too.

A full disk is an OSError that names the target, whatever the library that writes makes of it.
"""

import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PART = ".tmp"
OLD = ".old"
# Less free space means that a failed write has filled the disk.
_FULL = 1 << 16
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_OS_ERROR = re.compile(r"(?:\(os error |Os \{ code: )(\d+)")  # how Rust shows an error of the system


def write_file(target: Path, write: Callable[[Path], object], *, same_name: bool = False) -> None:
    """Calls `write` with a temporary path, and atomically renames the complete file to `target`.

    Devices and pipes are written directly. The parent folder is created if it is missing. If `write` raises, the
    exception is propagated and the target does not change. With `same_name`, the temporary file has the name of the
    target and lies in a temporary folder. This is needed if `write` depends on the file name, for example to read the
    file again by its suffix.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        with system_errors(target):
            write(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = folder = _temporary_name(target)
    if same_name:
        folder.mkdir()
        part = folder / target.name
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(part.stat().st_mode)
    try:
        with system_errors(target):
            write(part)
            part.chmod(mode)  # `write` may have replaced it with a file with other permissions
            flush(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        if same_name:
            shutil.rmtree(folder, ignore_errors=True)
    flush(target.parent)


@contextmanager
def open_deferred(path: Path) -> Iterator[BinaryIO]:
    """Context manager that opens a file for writing. If a write fails, its OSError is raised at exit.

    For writers in C++, such as that of `torch.save`, in which an error of a write can end the process.
    """
    raw = _Deferred(path, "w")
    with io.BufferedWriter(raw) as file:
        yield file
    if raw.failure is not None:
        raw.failure.filename = str(path)
        raise raw.failure


class _Deferred(io.FileIO):
    """File that stores its first write error instead of raising it, and ignores all later writes."""

    failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes bytes, or ignores them if an earlier write has failed."""
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def write_bytes(target: Path, content: bytes) -> None:
    """Writes bytes to a file and replaces any existing file."""
    write_file(target, lambda part: part.write_bytes(content))


def write_text(target: Path, text: str) -> None:
    """Writes text to a UTF-8 file and replaces any existing file. Undecodable bytes in the text are escaped."""
    write_bytes(target, text.encode("utf-8", "backslashreplace"))


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary folder, and renames the complete folder to `target`. Replaces an existing folder.

    An existing folder is first renamed to a hidden `.old` name next to it and removed at the end, because there is no
    portable system call to exchange two folders. If the process is killed between the two renames, the complete old
    folder remains under the hidden name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(target)
    part.mkdir()
    try:
        with system_errors(target):
            write(part)
            mode = stat.S_IMODE(part.stat().st_mode)
            for path in part.rglob("*"):
                path.chmod(mode if path.is_dir() else mode & 0o666)
                flush(path)
        publish(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, target: Path) -> None:
    """Renames a completely written folder to its final name. An existing folder is replaced."""
    flush(part)
    old = part.with_name(f"{part.name.removesuffix(PART)}{OLD}{PART}")
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(part, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder. It is renamed first, so that its original name never refers to an incomplete folder."""
    renamed = path.with_name(f"{path.name}{OLD}{PART}")
    os.rename(path, renamed)
    shutil.rmtree(renamed)


@contextmanager
def new_file_mode(path: Path) -> Iterator[None]:
    """Context manager that restores the default permissions of a file, because safetensors writes private files."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield
    path.chmod(mode)


def flush(path: Path) -> None:
    """Flushes the contents of a file, or the entries of a folder, to disk (fsync)."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return  # Windows cannot open folders; its journal preserves the order of renames
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def system_errors(target: Path) -> Iterator[None]:
    """Context manager that adds the path of the target to the OSError of a failed write, such as on a full disk."""
    try:
        yield
    except Exception as error:
        number = _errno(error, target)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(target)) from error


def _errno(error: Exception, target: Path) -> int | None:
    """Returns the errno of the system error that caused an exception, or None if no system error caused it."""
    below: BaseException | None = error
    while below is not None:
        found = _OS_ERROR.search(str(below))
        number = below.errno if isinstance(below, OSError) else int(found[1]) if found else None
        # The name of a temporary file says nothing to the user.
        if number in _WRITE_ERRORS or (
            below is error and number and PART in str(getattr(below, "filename", "") or PART)
        ):
            return number
        below = below.__cause__ or below.__context__
    if isinstance(error, ImportError):
        return None
    folder = target.parent if target.parent.is_dir() else target
    return errno.ENOSPC if shutil.disk_usage(folder).free < _FULL else None


def _temporary_name(target: Path) -> Path:
    """Returns a new, hidden path in the folder of the target."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
