"""The config of a family that is much like a plain ViT, read off the shapes of its tensors as a plain one's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.formats import Found
from vitkit.checkpoints.infer.vit import infer_vit, parse_overrides
from vitkit.checkpoints.tensors import Shape
from vitkit.layers import relative_rows
from vitkit.models import vit

Config = TypeVar("Config")
VIT_FIELDS = {field.name for field in fields(vit.Config)}


def infer_like(
    cls: type[Config],
    shapes: Mapping[str, Shape],
    found: Found,
    *,
    dialect: Mapping[str, Any],
    stated: Mapping[str, Any],
    own: Mapping[str, Any],
    notes: list[str],
) -> Config:
    """The config of type `cls` of tensors with those (canonical) names and shapes.

    `dialect` and `stated` as in `infer_vit`; `own` are fields that a plain ViT has not, or means something else by.
    Raises CheckpointError as `infer_vit`.
    """
    said = parse_overrides(cls, found.overrides)
    plain = infer_vit(
        shapes,
        dialect=dialect,
        stated={name: value for name, value in stated.items() if name in VIT_FIELDS},
        overrides={name: value for name, value in said.items() if name in VIT_FIELDS},
        image_size=found.image_size,
        notes=notes,
    )
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    beside = {name: value for name, value in stated.items() if name in names - VIT_FIELDS}
    values = {name: value for name, value in configs.to_dict(plain).items() if name in names}
    try:
        return configs.from_dict(cls, {**values, **own, **beside, **said})
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def relative_image_size(
    shapes: Mapping[str, Shape], tables: Sequence[str], stated: Mapping[str, Any], found: Found
) -> dict[str, Any]:
    """The image size that the first of those tables of relative positions is for; nothing where there is no table.

    A size that is stated must fit; one that the caller asks for is taken where it fits. Else the grid is a square.
    """
    table = next((shapes[name] for name in tables if name in shapes), None)
    projection = shapes.get("patch_embed.proj.weight", ())
    if table is None or len(projection) != 4 or 0 in projection:
        return {}
    patch = projection[2:]
    for size in (parse_size(found.overrides), stated.get("image_size"), found.image_size):
        if size is not None and relative_rows((size[0] // patch[0], size[1] // patch[1])) == table[0]:
            return {"image_size": size}
    side = (math.isqrt(max(table[0] - 3, 0)) + 1) // 2
    if "image_size" in stated or relative_rows((side, side)) != table[0]:
        size = stated.get("image_size", "a square")
        raise CheckpointError(f"a table of {table[0]} relative positions does not fit an image of {size}")
    return {"image_size": (side * patch[0], side * patch[1])}


def parse_size(overrides: Mapping[str, Any]) -> tuple[int, int] | None:
    """The image size among what the caller states."""
    if "image_size" not in overrides:
        return None
    return parse_overrides(vit.Config, {"image_size": overrides["image_size"]})["image_size"]
