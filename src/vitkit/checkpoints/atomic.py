"""Atomic writes of checkpoints; checks which existing files and folders may be replaced."""

from collections.abc import Callable
from pathlib import Path

from vitkit import atomic
from vitkit.checkpoints.checkpoint import CheckpointError


def write_file(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Writes a file with `write(path)`; CheckpointError if it exists, unless `overwrite`."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder, but this format is a single file")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists: pass overwrite=True (--overwrite) to replace it")
    atomic.write_file(target, write)


def write_folder(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Writes a folder with `write(folder)`; CheckpointError if it is not empty, unless `overwrite`.

    With `overwrite`, an existing folder is replaced only if it is a checkpoint: it has a config.json and no subfolders.
    """
    check_folder(target, overwrite=overwrite)
    atomic.write_folder(target, write)


def check_folder(target: Path, *, overwrite: bool) -> None:
    """Raises CheckpointError if `write_folder` cannot write the target."""
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file, but this format is a folder")
    inside = list(target.iterdir()) if target.is_dir() else []
    if inside and not overwrite:
        raise CheckpointError(f"{target} exists and is not empty: pass overwrite=True (--overwrite) to replace it")
    if inside and (not (target / "config.json").is_file() or any(path.is_dir() for path in inside)):
        raise CheckpointError(f"{target} is not replaced: it is not empty and not a checkpoint folder")
