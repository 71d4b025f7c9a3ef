"""From files to a model: recognise, describe, plan, and only then read, each tensor once and into its place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitkit import models
from vitkit.checkpoints import Checkpoint, Origin, preprocessing
from vitkit.checkpoints.dialects import Description, Found
from vitkit.checkpoints.errors import CheckpointError
from vitkit.checkpoints.locate import Files
from vitkit.checkpoints.recognise import Recognised, recognise
from vitkit.data.labels import default_labels


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
