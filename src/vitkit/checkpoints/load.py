"""Loads a checkpoint: finds the files, detects the format, validates names and shapes, and reads the tensors."""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from vitkit import config as configs
from vitkit import models
from vitkit.checkpoints import bounds, heads, meaning, preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError, Origin
from vitkit.checkpoints.detect import Detection, detect_format
from vitkit.checkpoints.formats import Description, RawCheckpoint
from vitkit.checkpoints.locate import Files, locate
from vitkit.checkpoints.table import COUNTER
from vitkit.data.labels import PLACEHOLDER, SUBSETS, default_labels
from vitkit.data.processor import Processor
from vitkit.task import Task
from vitkit.text import printable

UNTRAINED = "the head is untrained: it gives every image the same scores; train it before you use its predictions"


def load(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the public name
    revision: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    head: str | os.PathLike[str] | None = None,
    channels: int | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Checkpoint:
    """Loads a checkpoint from a folder, a file or the Hugging Face Hub.

    `source` is a path, a subtree of a file (`a.npz:img`, `a.pth:teacher`) or a Hub id `owner/name[@revision]`.

    Format and config are inferred from the tensors; `format` and `config` (fields of the model's config) set what
    cannot be inferred. `image_size` in pixels resizes the position table if the file has another size; it sets the size
    of files that do not store it. `patch_size` resizes the patch projection (FlexiViT; `layers.resize_patches`) and the
    position table. `num_classes` replaces the head with a zero-initialized one, 0 removes it. `head` is the path of a
    separate file with a linear head, as DINO and DINOv2 publish them (`checkpoints.heads`). `channels` adapts the input
    weights and the preprocessing of an RGB model to another number of channels (`models.Backbone.adapt_channels`), as
    does `config={"channels": 4}`. What the outputs mean is read from the file (`problem_type`), or set with
    `task.problem_type` in `config`. Weights are converted to `dtype`; None keeps the dtype of the file. The model is in
    evaluation mode.

    Raises CheckpointError with a one-line message if the checkpoint is invalid. Raises ValueError for an unknown
    format.
    """
    if head is not None and num_classes is not None:
        raise ValueError(f"head={os.fspath(head)!r} and num_classes={num_classes} both set the head; pass only one")
    # With another head, these fields describe its input, not that of the file's head.
    overrides = {name: value for name, value in (config or {}).items() if head is None or name not in heads.FIELDS}
    if "channels" in overrides:
        channels = parse_channels(overrides.pop("channels"))
    text = os.fspath(source)
    size, patch = _size(image_size, "image_size"), _size(patch_size, "patch_size")
    if num_classes is not None and (not _is_integer(num_classes) or num_classes < 0):
        raise ValueError(f"num_classes is {num_classes!r}; it must be an integer of at least 0, or None")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype is {dtype!r}; it must be a torch.dtype such as torch.bfloat16, or None")
    bounds.check_requested(size)
    try:
        files = locate(text, revision)
    except CheckpointError as error:
        raise CheckpointError(_with_source(text, str(error))) from None
    try:
        checkpoint = assemble(files, format=format, image_size=size, patch_size=patch, overrides=overrides, dtype=dtype)
        checkpoint = checkpoint if channels is None else with_channels(checkpoint, channels)
    except CheckpointError as error:
        raise CheckpointError(_with_source(text, str(error))) from None
    origin = dataclasses.replace(checkpoint.origin, source=text, revision=files.revision)
    checkpoint = dataclasses.replace(checkpoint, origin=origin)
    if head is not None:
        return _with_head(checkpoint, heads.attach(checkpoint.model, Path(head).expanduser(), config or {}, dtype))
    if num_classes is not None:
        had = checkpoint.model.config.num_classes
        note = f"head with {had} classes replaced with a zero-initialized head for {num_classes} classes"
        checkpoint.model.reset_head(num_classes)
        return _with_head(checkpoint, note, *[UNTRAINED] * bool(num_classes))
    return checkpoint


def describe(source: str | os.PathLike[str]) -> Checkpoint:
    """Returns a checkpoint whose model is on the meta device: config, labels and preprocessing, without weights.

    Only the names, shapes and dtypes of the tensors are used; the tensors themselves are read only if a config cannot
    be inferred without their values. Raises CheckpointError if the checkpoint is invalid.
    """
    text = os.fspath(source)
    try:
        files = locate(text, None)
        return assemble(files, format=None, image_size=None, overrides={}, dtype=None, weights=False)
    except CheckpointError as error:
        raise CheckpointError(_with_source(text, str(error))) from None


def parse_channels(value: object) -> int:
    """Converts a number of channels (integer or string) to an integer. Raises CheckpointError for other values."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not _is_integer(number) or number < 1:
        raise CheckpointError(f"channels is {value!r}; it must be an integer of at least 1")
    return number


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(value: object, name: str) -> tuple[int, int] | None:
    """Converts a size (an integer or a pair) to (height, width), and None to None. Raises ValueError if invalid."""
    if value is None:
        return None
    given: list[object] = list(value) if isinstance(value, tuple | list) else [value, value]
    sides = [side for side in given if _is_integer(side) and side > 0]
    if len(given) != 2 or len(sides) != 2:
        raise ValueError(f"{name} is {value!r}; it must be a positive integer or (height, width) in pixels")
    return sides[0], sides[1]


def with_channels(checkpoint: Checkpoint, channels: int) -> Checkpoint:
    """Adapts an RGB checkpoint to another number of channels. Raises CheckpointError for other checkpoints."""
    given, channels = checkpoint.model.config.channels, parse_channels(channels)
    if given == channels:
        return checkpoint
    try:
        checkpoint.model.adapt_channels(channels)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    how = "summed over red, green and blue" if channels == 1 else f"repeated red, green, blue, ... times 3/{channels}"
    note = f"input weights adapted from {given} to {channels} channels: {how}; mean and std are adapted likewise"
    origin = dataclasses.replace(checkpoint.origin, notes=(*checkpoint.origin.notes, note))
    return dataclasses.replace(checkpoint, processor=checkpoint.processor.with_channels(channels), origin=origin)


def _with_head(checkpoint: Checkpoint, *added: str) -> Checkpoint:
    """Returns the checkpoint of a model with a new head, with the added notes and the default labels."""
    notes = (each for each in checkpoint.origin.notes if each != UNTRAINED)
    origin = dataclasses.replace(checkpoint.origin, notes=(*notes, *added))
    config = checkpoint.model.config
    labels = default_labels(config.num_classes, regression=config.task.regression)
    return dataclasses.replace(checkpoint, labels=labels, origin=origin)


def _with_source(source: str, error: str) -> str:
    """Adds the source to the start of an error message, unless the message already contains it."""
    error = error.removeprefix(f"{Path(source).name}: ")
    named = re.search(rf"(?<!\S){re.escape(source)}(?!\w|[.-]\w)", error)
    return error if named else f"{source}: {error}"


def _pre_logits(overrides: Mapping[str, Any]) -> int | None:
    """Returns the overridden width of the pre-logits layer, or None if it is not overridden with a number."""
    value = overrides.get("pre_logits")
    value = configs.parse(value) if isinstance(value, str) else value
    return value if _is_integer(value) else None


def assemble(
    files: Files,
    *,
    format: str | None,  # noqa: A002
    image_size: tuple[int, int] | None,
    patch_size: tuple[int, int] | None = None,
    overrides: Mapping[str, Any],
    dtype: torch.dtype | None,
    weights: bool = True,
) -> Checkpoint:
    """Builds a checkpoint from files after validating their tensor names, shapes and config.

    Without `weights`, the model stays on the meta device.
    """
    task_overrides, overrides = meaning.split_overrides(overrides)
    detected = detect_format(files.tensors, files.config, format, _pre_logits(overrides))
    raw = RawCheckpoint(
        tensors=detected.tensors,
        config=files.config,
        preprocessor=files.preprocessor,
        file_name=files.path.name,
        wrapper=f"{files.subtree}.{detected.wrapper}" if files.subtree else detected.wrapper,
        overrides=overrides,
        image_size=image_size,
    )
    described = detected.format.describe(raw)
    found: list[str] = []
    task = meaning.read(described.config, files.config, task_overrides, found)
    described = dataclasses.replace(described, notes=described.notes + tuple(found))
    bounds.check_config(described.config, detected.tensors)
    if "image_size" not in overrides:
        bounds.check_sizes(described.config.image_size, described.processor)
    # In files written by vitkit, placeholder labels are the actual class names of the model.
    unnamed = _named_by_size(described) and "vitkit" not in (files.config or {})
    labels = tuple(map(printable, _labels(described, task, unnamed=unnamed)))
    model = _model(described.config, detected, dtype, weights=weights)
    if weights and task.target_std and detected.format.family is not None:
        meaning.rescale_head(model, dataclasses.replace(task, target_mean=(), target_std=()), task)
    model.config = dataclasses.replace(described.config, task=task)
    processor, extended = _processor(described)
    imagenet = f"no class names in the file: using ImageNet's for {len(labels)} classes"
    named = (imagenet,) if unnamed else ()
    notes = tuple(map(printable, detected.notes + described.notes + named)) + extended
    config = model.config
    patch = None if patch_size == getattr(config, "patch_size", None) else patch_size
    image = None if image_size == config.image_size else image_size
    if image is not None or patch is not None:
        # Resize both at once: resizing the position table twice loses accuracy twice.
        _resize(model, image, patch)
    if patch is not None:
        notes += (f"patch size resized from {config.patch_size} to {patch}",)
    if image is not None:
        notes += (f"image size resized from {config.image_size} to {image}",)
        processor = preprocessing.resized(processor, image)
    if config.num_classes and meaning.is_untrained(model):
        notes += (UNTRAINED,)
    origin = Origin(format=detected.format.name, notes=notes)
    return Checkpoint(model=model.eval(), processor=processor, labels=labels, origin=origin)


def _processor(described: Description) -> tuple[Processor, tuple[str, ...]]:
    """Returns the processor, adapted to the model's number of channels, and a note if it was adapted."""
    processor, channels = described.processor, described.config.channels
    if processor.channels == channels:
        return processor, ()
    note = f"the file has mean and std for {processor.channels} channels: adapted to the model's {channels}"
    return preprocessing.stated(lambda: processor.with_channels(channels), "mean and std"), (note,)


def _labels(described: Description, task: Task, *, unnamed: bool) -> tuple[str, ...]:
    classes = described.config.num_classes
    if described.labels is None or unnamed:
        return default_labels(classes, regression=task.regression)
    if len(described.labels) == classes:
        return described.labels
    if classes == 0:
        return ()
    raise CheckpointError(f"the head has {classes} classes, but the config has {len(described.labels)} labels")


def _named_by_size(described: Description) -> bool:
    """Returns whether the number of classes is that of ImageNet-21k or a subset, and real class names are missing."""
    labels = described.labels
    unnamed = labels is None or (len(labels) > 0 and all(PLACEHOLDER.fullmatch(label) for label in labels))
    return unnamed and described.config.num_classes in SUBSETS


def _model(config: Any, detected: Detection, dtype: torch.dtype | None, *, weights: bool) -> models.Backbone:
    """Builds the model on the meta device, assigns the tensors from the file and computes the buffers.

    Without `weights`, only assigns the dtypes.
    """
    try:
        model = models.build(config, device="meta")
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"cannot build a model from this config: {str(error).splitlines()[0]}") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    plan = detected.format.table.plan(expected, detected.tensors, getattr(config, "num_heads", 1))
    if not weights:
        dtypes = {step.ours: detected.tensors.infos[step.theirs[0]].dtype for step in plan}
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(dtype or dtypes.get(name, parameter.dtype))
        return model
    state: dict[str, Tensor] = {}
    for step in plan:
        tensor = step.transform.load([detected.tensors.read(name) for name in step.theirs])
        kind = torch.int64 if COUNTER.fullmatch(step.ours) else dtype or tensor.dtype
        state[step.ours] = _owned(tensor.to(kind).contiguous())
    for name in expected.keys() - state.keys():  # batch counters that the file does not have
        state[name] = torch.zeros((), dtype=torch.int64)
    model.load_state_dict(state, strict=True, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                module.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=False)
    model.init_buffers()
    return model


def _owned(tensor: Tensor) -> Tensor:
    """Returns a tensor with memory of its own that PyTorch allocated, not in a mapped file or a NumPy array.

    Later changes of the file then cannot change the model, and the inference engine detects changes of the weights at
    once.
    """
    storage = tensor.untyped_storage()
    alone = storage.resizable() and storage.nbytes() == tensor.numel() * tensor.itemsize
    return tensor if alone else tensor.clone()


def _resize(model: models.Backbone, image_size: tuple[int, int] | None, patch_size: tuple[int, int] | None) -> None:
    try:
        model.resize(image_size, patch_size)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
