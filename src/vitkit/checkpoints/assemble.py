"""From files to a model: recognise, describe, plan, and only then read, each tensor once and into its place."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitkit import models
from vitkit.checkpoints import Checkpoint, Origin, preprocessing
from vitkit.checkpoints.dialects import Description, Found
from vitkit.checkpoints.errors import CheckpointError
from vitkit.checkpoints.locate import Files
from vitkit.checkpoints.recognise import Recognised, recognise
from vitkit.data.labels import default_labels
from vitkit.models.beit import BEiT


def assemble(
    files: Files,
    *,
    format: str | None,  # noqa: A002
    image_size: tuple[int, int] | None,
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
    if image_size is not None and image_size != described.config.image_size:
        notes += (f"made for {described.config.image_size}, resized to {image_size}",)
        _resize(model, image_size)
        processor = preprocessing.resized(processor, image_size)
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


def _resize(model: models.Backbone, image_size: tuple[int, int]) -> None:
    """Makes another size the model's native one, its position table resized in the dialect of the config."""
    try:
        config = dataclasses.replace(model.config, image_size=image_size)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    positions = getattr(model, "pos_embed", None)
    if isinstance(positions, nn.Parameter):
        with torch.no_grad():
            table = model.positions(config.grid)  # type: ignore[operator]
        model.pos_embed = nn.Parameter(table.detach().clone())
    if isinstance(model, BEiT):
        with torch.no_grad():
            tables = model.tables(config.grid)
        for name, table in tables.items():
            where, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(where), leaf, nn.Parameter(table.clone(memory_format=torch.contiguous_format)))
    model.config = config
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name == "sincos":
                module.register_buffer(
                    name, buffer.new_empty(config.grid[0] * config.grid[1], buffer.shape[1]), persistent=False
                )
    model.init_buffers()
