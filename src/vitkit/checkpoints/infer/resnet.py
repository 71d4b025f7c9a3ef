"""The config of a hybrid or a BiT ResNet, read off the shapes of its tensors; a hybrid's ViT as a plain one's."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.infer.vit import infer_vit, parse_overrides
from vitkit.checkpoints.tensors import Shape
from vitkit.layers import resnet_stride
from vitkit.models import hybrid, resnet, vit

BACKBONE = "patch_embed.backbone"
VIT_FIELDS = {field.name for field in fields(vit.Config)}


def infer_hybrid(
    shapes: Mapping[str, Shape],
    *,
    dialect: Mapping[str, Any],
    stated: Mapping[str, Any],
    overrides: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> hybrid.Config:
    """The config of the tensors with those (canonical) names and shapes; arguments and errors as `infer_vit`."""
    said = parse_overrides(hybrid.Config, overrides)
    depths = resnet_depths(shapes, f"{BACKBONE}.stages")
    stride = resnet_stride(depths)
    stem = _convolution(shapes, f"{BACKBONE}.stem.conv.weight" if depths else f"{BACKBONE}.conv.weight")
    width, _, rows, columns = _convolution(shapes, "patch_embed.proj.weight")
    # As seen from the ViT: a patch of pixels instead of one of the map.
    patch = rows * stride, columns * stride
    pixels = {**shapes, "patch_embed.proj.weight": (width, stem[1], *patch)}
    size = said.get("image_size") or stated.get("image_size") or image_size
    covered = None if size is None else _covered(size, patch, stride)
    plain = infer_vit(
        pixels,
        dialect=_only(dialect, VIT_FIELDS | {"position_order"}),
        stated=_only(stated, VIT_FIELDS) | ({"image_size": covered} if "image_size" in stated else {}),
        overrides=_only(said, VIT_FIELDS) | ({"image_size": covered} if "image_size" in said else {}),
        image_size=covered,
        notes=notes,
    )
    values = configs.to_dict(plain) | {"depths": depths, "stem_width": stem[0]}
    values |= {name: value for name, value in {**dialect, **stated, **said}.items() if name in OWN_FIELDS}
    if size is not None and covered == plain.image_size:
        values["image_size"] = size
    try:
        return configs.from_dict(hybrid.Config, values)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


OWN_FIELDS = {field.name for field in fields(hybrid.Config)} - VIT_FIELDS


def resnet_depths(shapes: Mapping[str, Shape], where: str) -> tuple[int, ...]:
    """How many bottlenecks each of the stages has; CheckpointError where one is missing between others."""
    pattern = re.compile(rf"{re.escape(where)}\.(\d{{1,3}})\.blocks\.(\d{{1,3}})\.conv1\.weight")
    places = {(int(match[1]), int(match[2])) for name in shapes if (match := pattern.fullmatch(name))}
    stages = max((stage for stage, _ in places), default=-1) + 1
    depths = tuple(max((block for own, block in places if own == stage), default=0) + 1 for stage in range(stages))
    all_places = {(stage, block) for stage, depth in enumerate(depths) for block in range(depth)}
    if absent := sorted(all_places - places):
        raise CheckpointError(f"bottlenecks are missing: {listing([f'stage {s} block {b}' for s, b in absent])}")
    return depths


def _convolution(shapes: Mapping[str, Shape], name: str) -> Shape:
    shape = shapes.get(name, ())
    if len(shape) != 4 or 0 in shape:
        raise CheckpointError(f"a ResNet of Google's needs {name} with 4 axes, none of them empty")
    return shape


def _covered(size: tuple[int, int], patch: tuple[int, int], stride: int) -> tuple[int, int]:
    """The pixels that whole patches span: the ResNet rounds its map up, where the ViT's own patches round down."""
    rows, columns = (-(-side // stride) * stride // each * each for side, each in zip(size, patch, strict=True))
    return rows, columns


def _only(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names and name != "image_size"}


def infer_resnet(
    shapes: Mapping[str, Shape],
    *,
    fields: Mapping[str, Any],
    overrides: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> resnet.Config:
    """The config of a BiT ResNet: depths, widths and classes from the shapes, `fields` from the format.

    Raises CheckpointError where the tensors leave it open.
    """
    said = parse_overrides(resnet.Config, overrides)
    stem = _convolution(shapes, "stem.conv.weight")
    head = shapes.get("head.weight", (0, 0))
    values = {"image_size": image_size or (224, 224), **fields} | {
        "depths": resnet_depths(shapes, "stages"),
        "stem_width": stem[0],
        "channels": stem[1],
        "num_classes": head[0],
    }
    if image_size is None and "image_size" not in {**fields, **said}:
        notes.append("image size 224x224: the file has nothing that would tell, and any size works")
    try:
        return configs.from_dict(resnet.Config, values | said)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
