"""Saves a checkpoint in any format that supports its model. Files are written atomically."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitkit import atomic
from vitkit.checkpoints import meaning
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import formats_for
from vitkit.checkpoints.load import describe, load


def save(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint in the format `to` and returns the name of the format, such as "timm".

    `to` is one of `list_formats()`. The default is huggingface if it supports the model, else vitkit. The target is a
    folder, or a file for npz, big_vision and torchvision. It is written atomically; an existing target is an error
    unless `overwrite`. Raises CheckpointError with the reason if the format does not support the model, and for a model
    on the meta device.
    """
    if any(parameter.is_meta for parameter in checkpoint.model.parameters()):
        raise CheckpointError("the model is on the meta device and has no weights; load the checkpoint with load")
    return _save(checkpoint, target, to=to, overwrite=overwrite)


def convert_config(source: str | os.PathLike[str], target: str | os.PathLike[str], to: str) -> None:
    """Writes the JSON files that `convert` writes, without reading or writing the weights.

    `to` is a format that is a folder. Raises CheckpointError if the format does not support the model.
    """
    _save(describe(source), target, to=to, overwrite=False)


def _save(checkpoint: Checkpoint, target: str | os.PathLike[str], *, to: str | None, overwrite: bool) -> str:
    classes = checkpoint.model.config.num_classes
    if len(checkpoint.labels) != classes:
        raise CheckpointError(f"the model has {classes} classes, but there are {len(checkpoint.labels)} labels")
    name = checkpoint.model.family
    candidates = [*formats_for("huggingface"), *formats_for("vitkit")] if to is None else formats_for(to)
    matching = [each for each in candidates if each.family in (None, name)]
    if not matching:
        raise CheckpointError(f"{to} does not support the model family {name}; use to='vitkit'")
    config = checkpoint.model.config
    reasons = [
        each.unsupported_reason(config) or (meaning.unsupported(config, each.name) if each.suffix else None)
        for each in matching
    ]
    if all(reasons):
        raise CheckpointError(str(reasons[0]))
    chosen = matching[reasons.index(None)]
    if chosen.family is not None:
        checkpoint = meaning.in_target_units(checkpoint)
    path = Path(target).expanduser()
    if chosen.suffix and path.suffix != chosen.suffix:
        raise CheckpointError(
            f"the format {chosen.name} is a single file, which must end in {chosen.suffix}, not {path.name}"
        )
    write = write_file if chosen.suffix else write_folder
    write(path, lambda part: chosen.write(checkpoint, part), overwrite=overwrite)
    return chosen.name


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Checkpoint:
    """Loads a checkpoint with `load(source, **options)`, saves it in the format `to` and returns the checkpoint."""
    checkpoint = load(source, **options)
    save(checkpoint, target, to=to, overwrite=overwrite)
    return checkpoint


def write_file(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Calls `write(path)` to write a file. Raises CheckpointError if the file exists and `overwrite` is False."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder, but this format is a single file; pass the path of a file")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; pass overwrite=True (--overwrite) to replace it")
    atomic.write_file(target, write)


def write_folder(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Calls `write(folder)` to write a folder.
    Raises CheckpointError if the folder is not empty and `overwrite` is False.

    With `overwrite`, an existing folder is replaced only if it is a checkpoint: it has a config.json and no subfolders.
    """
    check_folder(target, overwrite=overwrite)
    atomic.write_folder(target, write)


def check_folder(target: Path, *, overwrite: bool) -> None:
    """Raises CheckpointError if `target` is a file, or a folder that must not be replaced."""
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file, but this format is a folder; pass the path of a folder")
    inside = list(target.iterdir()) if target.is_dir() else []
    if inside and not overwrite:
        raise CheckpointError(f"{target} exists and is not empty; pass overwrite=True (--overwrite) to replace it")
    if inside and (not (target / "config.json").is_file() or any(path.is_dir() for path in inside)):
        raise CheckpointError(
            f"{target} cannot be replaced: it is not empty and is not a checkpoint folder; choose another folder"
        )
