"""Infers the config of DeiT, BEiT and DINOv3 from tensor shapes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.formats import RawCheckpoint
from vitkit.checkpoints.infer.vit import Fields, infer_vit, parse_overrides
from vitkit.checkpoints.tensors import Shape
from vitkit.layers import relative_rows
from vitkit.models import vit

Config = TypeVar("Config")
VIT_FIELDS = {field.name for field in fields(vit.Config)}


def infer_variant(
    cls: type[Config],
    shapes: Mapping[str, Shape],
    raw: RawCheckpoint,
    *,
    defaults: Fields,
    file_config: Fields,
    extra: Fields,
    notes: list[str],
) -> Config:
    """Infers a config of the class `cls` from the shapes of the tensors, which have vitkit's names.

    `defaults`, `file_config`, `notes` and errors are those of `infer_vit`. `extra` are config fields that a plain ViT
    does not have or that have another meaning in it.
    """
    parsed = parse_overrides(cls, raw.overrides)
    plain = infer_vit(
        shapes,
        defaults=defaults,
        file_config={name: value for name, value in file_config.items() if name in VIT_FIELDS},
        overrides={name: value for name, value in parsed.items() if name in VIT_FIELDS},
        image_size=raw.image_size,
        notes=notes,
    )
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    from_file = {name: value for name, value in file_config.items() if name in names - VIT_FIELDS}
    values = {name: value for name, value in configs.to_dict(plain).items() if name in names}
    try:
        return configs.from_dict(cls, {**values, **extra, **from_file, **parsed})
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def relative_image_size(
    shapes: Mapping[str, Shape], tables: Sequence[str], file_config: Fields, raw: RawCheckpoint
) -> dict[str, Any]:
    """Infers image_size from the first relative position bias named in `tables`, or returns {} if there is none.

    A size in config.json must match the table. The caller's size is used if it matches. Otherwise the grid is square.
    """
    table = next((shapes[name] for name in tables if name in shapes), None)
    projection = shapes.get("patch_embed.proj.weight", ())
    if table is None or len(projection) != 4 or 0 in projection:
        return {}
    patch = projection[2:]
    for size in (parse_size(raw.overrides), file_config.get("image_size"), raw.image_size):
        if size is not None and relative_rows((size[0] // patch[0], size[1] // patch[1])) == table[0]:
            return {"image_size": size}
    side = (math.isqrt(max(table[0] - 3, 0)) + 1) // 2
    if "image_size" in file_config or relative_rows((side, side)) != table[0]:
        size = file_config.get("image_size", "a square")
        raise CheckpointError(f"a relative position bias with {table[0]} rows does not match the image size {size}")
    return {"image_size": (side * patch[0], side * patch[1])}


def parse_size(overrides: Fields) -> tuple[int, int] | None:
    """Returns image_size from the overrides, or None if it is not set."""
    if "image_size" not in overrides:
        return None
    return parse_overrides(vit.Config, {"image_size": overrides["image_size"]})["image_size"]
