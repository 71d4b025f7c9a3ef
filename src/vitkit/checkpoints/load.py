"""From files to a model: recognise, describe, plan, and only then read, each tensor once and into its place."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitkit import models
from vitkit.checkpoints import heads, preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError, Origin
from vitkit.checkpoints.detect import Recognised, recognise
from vitkit.checkpoints.formats import Description, Found
from vitkit.checkpoints.locate import Files, locate
from vitkit.data.labels import default_labels


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
    origin = dataclasses.replace(checkpoint.origin, notes=(*checkpoint.origin.notes, note))
    return dataclasses.replace(checkpoint, labels=default_labels(checkpoint.model.config.num_classes), origin=origin)


def _of(source: str, error: str) -> str:
    """The sentence with the source that it is about, which most that `locate` says have already."""
    named = re.search(rf"(?<!\S){re.escape(source)}(?!\w|[.-]\w)", error)
    return error if named else f"{source}: {error}"


def assemble(
    files: Files,
    *,
    format: str | None,  # noqa: A002
    image_size: tuple[int, int] | None,
    patch_size: tuple[int, int] | None = None,
    overrides: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> Checkpoint:
    """The checkpoint of those files; names, shapes and config are checked before the first value is read."""
    recognised = recognise(files.tensors, files.config, format)
    found = Found(
        tensors=recognised.tensors,
        config=files.config,
        preprocessor=files.preprocessor,
        file_name=files.path.name,
        wrapper=recognised.wrapper,
        overrides=overrides,
        image_size=image_size,
    )
    described = recognised.format.describe(found)
    labels = _labels(described)
    model = _model(described.config, recognised, dtype)
    processor = described.processor
    notes = recognised.notes + described.notes
    config = described.config
    patch = None if patch_size == getattr(config, "patch_size", None) else patch_size
    image = None if image_size == config.image_size else image_size
    if image is not None or patch is not None:
        # Both at once: a table that is resized twice loses twice.
        _resize(model, image, patch)
    if patch is not None:
        notes += (f"made for patches of {config.patch_size}, resized to {patch}",)
    if image is not None:
        notes += (f"made for {config.image_size}, resized to {image}",)
        processor = preprocessing.resized(processor, image)
    origin = Origin(format=recognised.format.name, notes=notes)
    return Checkpoint(model=model.eval(), processor=processor, labels=labels, origin=origin)


def _labels(described: Description) -> tuple[str, ...]:
    classes = described.config.num_classes
    if described.labels is None:
        return default_labels(classes)
    if len(described.labels) == classes:
        return described.labels
    if classes == 0:
        return ()
    raise CheckpointError(f"the head has {classes} classes, but the config names {len(described.labels)}")


def _model(config: Any, recognised: Recognised, dtype: torch.dtype | None) -> models.Backbone:
    """A model without memory of its own, given the tensors of the file; buffers that no file holds are computed."""
    try:
        model = models.build(config, device="meta")
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"no model can be built of this config: {str(error).splitlines()[0]}") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    plan = recognised.format.table.plan(expected, recognised.tensors, getattr(config, "num_heads", 1))
    state: dict[str, Tensor] = {}
    for step in plan:
        tensor = step.transform.load([recognised.tensors.read(name) for name in step.theirs])
        state[step.ours] = tensor.to(dtype or tensor.dtype).contiguous()
    model.load_state_dict(state, strict=True, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                module.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=False)
    model.init_buffers()
    return model


def _resize(model: models.Backbone, image_size: tuple[int, int] | None, patch_size: tuple[int, int] | None) -> None:
    try:
        model.resize(image_size, patch_size)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
