"""Writing that happens whole or not at all: into a new name beside the target, to the disk, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from vitkit.checkpoints.checkpoint import CheckpointError


def write_file(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """One file by `write(path)`; an existing one is refused unless `overwrite`."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder, and this format is one file")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists: say overwrite=True (--overwrite) to replace it")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        _readable(part, 0o666)
        _flush(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    _flush(target.parent)


def write_folder(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """One folder by `write(folder)`; one that is not empty is refused unless `overwrite`, and is then replaced whole.

    A folder is replaced only where it looks like a checkpoint: it has a config.json and no folders inside.
    """
    check_folder(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        write(part)
        _readable(part, 0o777)
        for path in part.iterdir():
            _flush(path)
        _flush(part)
        if target.exists():
            target.rename(old)
        try:
            part.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    _flush(target.parent)


def check_folder(target: Path, *, overwrite: bool) -> None:
    """CheckpointError where `write_folder` would refuse the target."""
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file, and this format is a folder")
    inside = list(target.iterdir()) if target.is_dir() else []
    if inside and not overwrite:
        raise CheckpointError(f"{target} exists and is not empty: say overwrite=True (--overwrite) to replace it")
    if inside and (not (target / "config.json").is_file() or any(path.is_dir() for path in inside)):
        raise CheckpointError(f"{target} is not empty and no checkpoint folder: it is not replaced")


def _readable(path: Path, mode: int) -> None:
    """The permissions that a file or folder made in the plain way has; temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(mode & ~mask)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
