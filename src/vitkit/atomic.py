"""Atomic writes: a file or folder is complete under its name, or is not there; also after a crash or a power cut.

The only code that renames files. Content goes to a temporary name in the same folder, is flushed to the disk (`fsync`),
and is renamed; then the folder is flushed, so that the new name is on the disk too.
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
    """Writes one file by `write(path)`, in place of an existing one.

    A device or a pipe is written to directly. The folder of the target is made. What `write` raises passes through, and
    the target is as before.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        write(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(part.stat().st_mode)
    try:
        write(part)
        part.chmod(mode)  # a library may have put a private file in its place
        flush(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    flush(target.parent)


def write_bytes(target: Path, content: bytes) -> None:
    """Writes one file with that content, in place of an existing one."""
    write_file(target, lambda part: part.write_bytes(content))


def write_text(target: Path, text: str) -> None:
    """Writes one UTF-8 file with that text, in place of an existing one."""
    write_bytes(target, text.encode("utf-8"))


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Writes one folder by `write(folder)`, in place of an existing one.

    An existing folder is first renamed to a hidden `.old` one in the same place, and removed at the end: no system call
    exchanges two folders everywhere. A process that is killed between the two renames leaves it there, complete.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target)
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
    """Gives a folder whose files are on the disk its name, in place of an existing folder."""
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
    """Removes a folder so that its name never stands for a part of it."""
    gone = path.with_name(f"{path.name}{OLD}{PART}")
    os.rename(path, gone)
    shutil.rmtree(gone)


def flush(path: Path) -> None:
    """Returns when the content of a file, or the names in a folder, are on the disk."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return  # Windows opens no folders; its journal keeps the order of renames
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(target: Path) -> Path:
    """A new hidden name in the folder of the target."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART}")
