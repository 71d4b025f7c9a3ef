"""What a checkpoint may replace: the rules of `save` and `export` before `vitkit.atomic` writes."""

from collections.abc import Callable
from pathlib import Path

from vitkit import atomic
from vitkit.checkpoints.checkpoint import CheckpointError


def write_file(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """One file by `write(path)`; an existing one is refused unless `overwrite`."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder, and this format is one file")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists: say overwrite=True (--overwrite) to replace it")
    atomic.write_file(target, write)


def write_folder(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """One folder by `write(folder)`; one that is not empty is refused unless `overwrite`, and is then replaced whole.

    A folder is replaced only where it looks like a checkpoint: it has a config.json and no folders inside.
    """
    check_folder(target, overwrite=overwrite)
    atomic.write_folder(target, write)


def check_folder(target: Path, *, overwrite: bool) -> None:
    """CheckpointError where `write_folder` would refuse the target."""
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file, and this format is a folder")
    inside = list(target.iterdir()) if target.is_dir() else []
    if inside and not overwrite:
        raise CheckpointError(f"{target} exists and is not empty: say overwrite=True (--overwrite) to replace it")
    if inside and (not (target / "config.json").is_file() or any(path.is_dir() for path in inside)):
        raise CheckpointError(f"{target} is not empty and no checkpoint folder: it is not replaced")
