"""Checkpoints: any ViT's weights in, any dialect out, every tensor accounted for, nothing run.

dialects/       one file per foreign dialect: a two-way key table and what tensors do not tell
containers/     one file per kind of weights file: headers checked before memory is taken
locate, pull    what a user types to files on this disk; recognise: whose names they are
heads           linear heads that are published apart from their backbones
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitkit.checkpoints.errors import CheckpointError
from vitkit.data.processor import Processor
from vitkit.models import Backbone

__all__ = ["Checkpoint", "CheckpointError", "Origin", "convert", "formats", "load", "save"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a checkpoint came from: what was typed, format, commit on the Hub, what was inferred or left out."""

    source: str = ""
    format: str = "vitkit"
    revision: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with what makes it usable: preprocessing, and a name for every class (none where it has no head)."""

    model: Backbone
    processor: Processor
    labels: tuple[str, ...]
    origin: Origin = Origin()


def formats() -> list[str]:
    """The names that `to=` and `format=` take."""
    from vitkit.checkpoints.dialects import targets

    return targets()


def load(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the word that users know
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    head: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Checkpoint:
    """The checkpoint of a folder, a file of any dialect (`a.npz:img`: a subtree), or a Hub id `owner/name[@revision]`.

    The format and the config are found from the tensors; `format` and `config` (fields of the model's config) state
    what they cannot tell. `image_size` in pixels says which grid a position table is for, and resizes the table to it
    where the file says another. `patch_size` resizes the patch projection (FlexiViT; `layers.resize_patches`), and the
    table to the number of such patches in the image. `num_classes` puts a new, zero head in place of the file's, 0
    none; `head` the one of another file, as DINO and DINOv2 publish them apart (`checkpoints.heads`). Weights become
    `dtype`, None keeps the file's. The model is in evaluation mode. Raises CheckpointError, one line, for whatever is
    wrong, and ValueError for an unknown format.
    """
    from vitkit.checkpoints import heads
    from vitkit.checkpoints.assemble import assemble
    from vitkit.checkpoints.locate import locate

    if head is not None and num_classes is not None:
        raise ValueError(
            f"head={os.fspath(head)!r} and num_classes={num_classes} both say which head there is: give one"
        )
    # What another head reads is not what the file's own does.
    overrides = {name: value for name, value in (config or {}).items() if head is None or name not in heads.FIELDS}
    text = os.fspath(source)
    size, patch = ((each, each) if isinstance(each, int) else each for each in (image_size, patch_size))
    try:
        files = locate(text, revision)
    except CheckpointError as error:
        raise CheckpointError(_of(text, str(error))) from None
    try:
        checkpoint = assemble(files, format=format, image_size=size, patch_size=patch, overrides=overrides, dtype=dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{text}: {error}") from None
    origin = dataclasses.replace(checkpoint.origin, source=text, revision=files.revision)
    checkpoint = dataclasses.replace(checkpoint, origin=origin)
    if head is not None:
        return _headed(checkpoint, heads.attach(checkpoint.model, Path(head).expanduser(), config or {}, dtype))
    if num_classes is not None:
        note = f"the head of {checkpoint.model.config.num_classes} classes gave way to a new, zero one of {num_classes}"
        checkpoint.model.reset_head(num_classes)
        return _headed(checkpoint, note)
    return checkpoint


def _headed(checkpoint: Checkpoint, note: str) -> Checkpoint:
    """The checkpoint with names for the classes of its new head, and a note of where that is from."""
    from vitkit.data.labels import default_labels

    origin = dataclasses.replace(checkpoint.origin, notes=(*checkpoint.origin.notes, note))
    return dataclasses.replace(checkpoint, labels=default_labels(checkpoint.model.config.num_classes), origin=origin)


def _of(source: str, error: str) -> str:
    """The sentence with the source that it is about, which most that `locate` says have already."""
    named = re.search(rf"(?<!\S){re.escape(source)}(?!\w|[.-]\w)", error)
    return error if named else f"{source}: {error}"


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
    from vitkit.checkpoints.atomic import write_file, write_folder
    from vitkit.checkpoints.dialects import named

    classes = checkpoint.model.config.num_classes
    if len(checkpoint.labels) != classes:
        raise CheckpointError(f"the model has {classes} classes, but there are {len(checkpoint.labels)} labels")
    name = checkpoint.model.family
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
