"""Infers the config of a hybrid ViT or a BiT ResNet from the shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.infer.vit import Fields, infer_vit, parse_overrides
from vitkit.checkpoints.tensors import Shape
from vitkit.layers import resnet_stride
from vitkit.models import bit, hybrid, vit

BACKBONE = "patch_embed.backbone"
VIT_FIELDS = {field.name for field in fields(vit.Config)}


def infer_hybrid(
    shapes: Mapping[str, Shape],
    *,
    defaults: Fields,
    file_config: Fields,
    overrides: Fields,
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> hybrid.Config:
    """Infers the config of a hybrid ViT. Arguments and errors are those of `infer_vit`."""
    parsed = parse_overrides(hybrid.Config, overrides)
    depths = resnet_depths(shapes, f"{BACKBONE}.stages")
    stride = resnet_stride(depths)
    stem = convolution(shapes, f"{BACKBONE}.stem.conv.weight" if depths else f"{BACKBONE}.conv.weight")
    width, _, rows, columns = convolution(shapes, "patch_embed.proj.weight")
    # Convert the patch size from feature map cells to pixels for `infer_vit`.
    patch = rows * stride, columns * stride
    pixels = {**shapes, "patch_embed.proj.weight": (width, stem[1], *patch)}
    size = parsed.get("image_size") or file_config.get("image_size") or image_size
    covered = None if size is None else _covered(size, patch, stride)
    plain = infer_vit(
        pixels,
        defaults=_only(defaults, VIT_FIELDS | {"position_order"}),
        file_config=_only(file_config, VIT_FIELDS) | ({"image_size": covered} if "image_size" in file_config else {}),
        overrides=_only(parsed, VIT_FIELDS) | ({"image_size": covered} if "image_size" in parsed else {}),
        image_size=covered,
        notes=notes,
    )
    values = configs.to_dict(plain) | {"depths": depths, "stem_width": stem[0]}
    values |= {name: value for name, value in {**defaults, **file_config, **parsed}.items() if name in OWN_FIELDS}
    if size is not None and covered == plain.image_size:
        values["image_size"] = size
    try:
        return configs.from_dict(hybrid.Config, values)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


OWN_FIELDS = {field.name for field in fields(hybrid.Config)} - VIT_FIELDS


def resnet_depths(shapes: Mapping[str, Shape], where: str) -> tuple[int, ...]:
    """Returns the number of residual blocks in each stage. Raises CheckpointError if a block is missing."""
    pattern = re.compile(rf"{re.escape(where)}\.(\d{{1,3}})\.blocks\.(\d{{1,3}})\.conv1\.weight")
    found = {(int(match[1]), int(match[2])) for name in shapes if (match := pattern.fullmatch(name))}
    stages = max((stage for stage, _ in found), default=-1) + 1
    depths = tuple(max((b for s, b in found if s == stage), default=0) + 1 for stage in range(stages))
    expected = {(stage, block) for stage, depth in enumerate(depths) for block in range(depth)}
    if absent := sorted(expected - found):
        raise CheckpointError(
            f"residual blocks are missing: {listing([f'stage {s} block {b}' for s, b in absent])}; save the full "
            "state_dict"
        )
    return depths


def convolution(shapes: Mapping[str, Shape], name: str) -> Shape:
    """Returns the shape of a convolution weight. Raises CheckpointError if the weight is missing or invalid."""
    shape = shapes.get(name, ())
    if name not in shapes:
        raise CheckpointError(f"the convolution weight {name} is missing; save the full state_dict")
    if len(shape) != 4 or 0 in shape:
        raise CheckpointError(f"{name} has shape {shape}; expected a convolution weight with 4 non-empty dimensions")
    return shape


def _covered(size: tuple[int, int], patch: tuple[int, int], stride: int) -> tuple[int, int]:
    """Returns the image size (height, width), in pixels, that the complete patches of the feature map cover."""
    rows, columns = (-(-side // stride) * stride // each * each for side, each in zip(size, patch, strict=True))
    return rows, columns


def _only(values: Fields, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names and name != "image_size"}


def infer_bit(
    shapes: Mapping[str, Shape],
    *,
    fields: Fields,
    overrides: Fields,
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> bit.Config:
    """Infers the depths, widths and number of classes of a BiT ResNet from tensor shapes.

    `fields` are the values set by the format. Raises CheckpointError if the tensors do not determine the config.
    """
    parsed = parse_overrides(bit.Config, overrides)
    stem = convolution(shapes, "stem.conv.weight")
    head = shapes.get("head.weight", (0, 0))
    values = {"image_size": image_size or (224, 224), **fields} | {
        "depths": resnet_depths(shapes, "stages"),
        "stem_width": stem[0],
        "channels": stem[1],
        "num_classes": head[0],
    }
    if image_size is None and "image_size" not in {**fields, **parsed}:
        notes.append("image_size is not in the file: using 224x224; any size works")
    try:
        return configs.from_dict(bit.Config, values | parsed)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
