"""From a model to files, in any format that can express it."""

import os
from pathlib import Path
from typing import Any

from vitkit.checkpoints.atomic import write_file, write_folder
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import named
from vitkit.checkpoints.load import load


def save(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    to: str | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint as `to` (one of `formats()`), by default as huggingface where that can say it, else vitkit.

    The target is a folder, or a file for npz, big_vision and torchvision. It appears whole or not at all; one that is
    there is refused unless `overwrite`. Returns the name of the format written. Raises CheckpointError that names the
    obstacle where the format cannot express the model, and what can.
    """
    classes = checkpoint.model.config.num_classes
    if len(checkpoint.labels) != classes:
        raise CheckpointError(f"the model has {classes} classes, but there are {len(checkpoint.labels)} labels")
    name = type(checkpoint.model.config).__module__.rpartition(".")[2]
    candidates = [*named("huggingface"), *named("vitkit")] if to is None else named(to)
    able = [each for each in candidates if each.family in (None, name)]
    if not able:
        raise CheckpointError(f"{to} has no layout for the family {name}; to='vitkit' has")
    obstacles = [each.obstacle(checkpoint.model.config) for each in able]
    if all(obstacles):
        raise CheckpointError(str(obstacles[0]))
    chosen = able[obstacles.index(None)]
    path = Path(target).expanduser()
    if chosen.suffix and path.suffix != chosen.suffix:
        raise CheckpointError(f"{chosen.name} is one file: give a name that ends in {chosen.suffix}, not {path.name}")
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
    """Loads a checkpoint and writes it in another dialect; `options` are those of `load`. Returns what was loaded."""
    checkpoint = load(source, **options)
    save(checkpoint, target, to=to, overwrite=overwrite)
    return checkpoint
