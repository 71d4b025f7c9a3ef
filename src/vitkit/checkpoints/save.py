"""Saves checkpoints in any format that supports the model."""

import os
from pathlib import Path
from typing import Any

from vitkit.checkpoints.atomic import write_file, write_folder
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import formats_for
from vitkit.checkpoints.load import load


def save(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint in the format `to` and returns the name of the format.

    `to` is one of `list_formats()`. The default is huggingface if it supports the model, else vitkit. The target is a
    folder, or a file for npz, big_vision and torchvision. It is written atomically; an existing target is an error
    unless `overwrite`. Raises CheckpointError with the reason if the format does not support the model.
    """
    classes = checkpoint.model.config.num_classes
    if len(checkpoint.labels) != classes:
        raise CheckpointError(f"the model has {classes} classes, but there are {len(checkpoint.labels)} labels")
    name = checkpoint.model.family
    candidates = [*formats_for("huggingface"), *formats_for("vitkit")] if to is None else formats_for(to)
    matching = [each for each in candidates if each.family in (None, name)]
    if not matching:
        raise CheckpointError(f"{to} does not support the model family {name}; use to='vitkit'")
    reasons = [each.unsupported_reason(checkpoint.model.config) for each in matching]
    if all(reasons):
        raise CheckpointError(str(reasons[0]))
    chosen = matching[reasons.index(None)]
    path = Path(target).expanduser()
    if chosen.suffix and path.suffix != chosen.suffix:
        raise CheckpointError(f"{chosen.name} is a single file: the name must end in {chosen.suffix}, not {path.name}")
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
    """Loads a checkpoint with `load(source, **options)`, writes it as `to` and returns it."""
    checkpoint = load(source, **options)
    save(checkpoint, target, to=to, overwrite=overwrite)
    return checkpoint
