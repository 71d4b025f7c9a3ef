"""Atomic writes: after a crash or power failure, the target is either complete or unchanged.

Only this module renames files. Content is written to a temporary name in the same folder, flushed to disk (`fsync`) and
renamed; then the folder is flushed, so that the new name is on disk, too.
"""

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

PART = ".tmp"
OLD = ".old"


def write_file(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(path)` to write a file, and replaces any existing file.

    Devices and pipes are written directly. The parent folder is created. If `write` raises, the exception is propagated
    and the target does not change.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        write(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(target)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(part.stat().st_mode)
    try:
        write(part)
        part.chmod(mode)  # `write` may have replaced it with a file with other permissions
        flush(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    flush(target.parent)


def write_bytes(target: Path, content: bytes) -> None:
    """Writes bytes to a file and replaces any existing file."""
    write_file(target, lambda part: part.write_bytes(content))


def write_text(target: Path, text: str) -> None:
    """Writes text to a UTF-8 file and replaces any existing file; bytes of names that are not UTF-8 are escaped."""
    write_bytes(target, text.encode("utf-8", "backslashreplace"))


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(folder)` to write a folder, and replaces any existing folder.

    An existing folder is first renamed to a hidden `.old` name next to it and removed at the end, because there is no
    portable system call to exchange two folders. If the process is killed between the two renames, the complete old
    folder remains under the hidden name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary_name(target)
    part.mkdir()
    try:
        write(part)
        mode = stat.S_IMODE(part.stat().st_mode)
        for path in part.rglob("*"):
            path.chmod(mode if path.is_dir() else mode & 0o666)
            flush(path)
        publish(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, target: Path) -> None:
    """Renames a flushed folder to its final name and replaces any existing folder."""
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
    """Renames a folder and then removes it, so that its name never refers to an incomplete folder."""
    renamed = path.with_name(f"{path.name}{OLD}{PART}")
    os.rename(path, renamed)
    shutil.rmtree(renamed)


def flush(path: Path) -> None:
    """Flushes the contents of a file, or the entries of a folder, to disk."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return  # Windows cannot open folders; its journal preserves the order of renames
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary_name(target: Path) -> Path:
    """Returns a new hidden path in the same folder as the target."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
