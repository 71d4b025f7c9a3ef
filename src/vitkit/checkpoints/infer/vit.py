"""The config of a plain ViT, read off the shapes of its tensors.

What shapes do not tell (heads, activation, epsilon) comes from the file's own config, else from the format's dialect,
else from the table of known widths; what the caller states wins.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.tensors import Shape
from vitkit.models.vit import SIZES, Config

HEADS = {width: heads for width, _, heads, _ in SIZES.values()}
# Heads have this width in every ViT up to L, whatever the total.
HEAD_WIDTH = 64
# The factor a fresh LayerScale starts from is not in a file of trained ones; DINOv2's stands in.
LAYER_SCALE = 1e-5
# Fixed sine-cosine tables are computed, not read: this bounds the memory that a file's stated size can ask for.
MAX_FIXED_POSITIONS = 65_536
STRUCTURE = ("patch_size", "channels", "width", "depth", "mlp_width", "num_classes")


def infer_vit(
    shapes: Mapping[str, Shape],
    *,
    dialect: Mapping[str, Any],
    stated: Mapping[str, Any],
    overrides: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> Config:
    """The config of the tensors with those (canonical) names and shapes.

    `dialect` are the format's customs, `stated` what the file's own config says, `overrides` what the caller says; each
    has fields of `Config`. `image_size` is tried where neither says it. Adds to `notes` what was guessed. Raises
    CheckpointError where they contradict each other or leave the config open.
    """
    overrides = parse_overrides(Config, overrides)
    known = get_type_hints(Config)
    stated = _typed(Config, {name: value for name, value in stated.items() if name in known}, {}, "config.json")
    seen = _structure(shapes)
    for name in STRUCTURE:
        if name in stated and stated[name] != seen[name]:
            raise CheckpointError(f"the config says {name} {stated[name]}, the tensors say {seen[name]}")
    fields = {**dialect, **seen, **stated, **overrides}
    if "num_heads" not in fields:
        fields["num_heads"] = _num_heads(shapes, fields, notes)
    if fields.get("pool") is None:
        fields["pool"] = "map" if "attn_pool.latent" in shapes else "token" if fields["class_token"] else "gap"
    fields |= _positions(shapes, fields, image_size, notes) | overrides
    try:
        config = configs.from_dict(Config, {name: value for name, value in fields.items() if name in known})
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    check_fixed_positions(config)
    return config


def parse_overrides(cls: type, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What the caller states, as values of the config's fields; text is parsed, one number for a size is a square."""
    plain = {name: configs.parse(value) if isinstance(value, str) else value for name, value in overrides.items()}
    sides = {name: (value, value) for name, value in plain.items() if name.endswith("_size") and isinstance(value, int)}
    return _typed(cls, plain | sides, overrides, "config")


def _typed(cls: type, values: Mapping[str, Any], texts: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values as the types of the config's fields; `texts` are the words they were parsed from."""
    hints = get_type_hints(cls)
    result: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise CheckpointError(f"unknown key '{name}' in {where}{configs.nearest(name, hints)}")
        try:
            result[name] = configs.convert(value, hints[name], name, text=texts.get(name))
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from None
    return result


def check_fixed_positions(config: Any) -> None:
    """CheckpointError where a table that no file holds would be larger than any model needs."""
    if getattr(config, "position", None) == "sincos2d" and math.prod(config.grid) > MAX_FIXED_POSITIONS:
        raise CheckpointError(f"image_size {config.image_size} makes {math.prod(config.grid):,} positions: too many")


def _structure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    width, channels, rows, columns = _shape(shapes, "patch_embed.proj.weight", 4)
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    if absent := sorted(set(range(len(blocks))) - blocks):
        raise CheckpointError(f"blocks are missing: {listing([f'block {index}' for index in absent])}")
    qkv = _shape(shapes, "blocks.0.attn.qkv.weight", 2)
    if qkv != (3 * width, width):
        raise CheckpointError(
            f"the patches have width {width}, but the first attention is {qkv}, not {(3 * width, width)}"
        )
    hidden, mlp_width = _shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0], _shape(shapes, "blocks.0.mlp.fc2.weight", 2)[1]
    return {
        "patch_size": (rows, columns),
        "channels": channels,
        "width": width,
        "depth": len(blocks),
        "mlp": "swiglu" if hidden == 2 * mlp_width else "mlp",
        "mlp_width": mlp_width,
        "num_classes": _shape(shapes, "head.weight", 2)[0] if "head.weight" in shapes else 0,
        "class_token": "cls_token" in shapes,
        "num_registers": _shape(shapes, "reg_token", 3)[1] if "reg_token" in shapes else 0,
        "norm": "pooled" if "fc_norm.weight" in shapes else "tokens",
        "pre_logits": _shape(shapes, "pre_logits.fc.weight", 2)[0] if "pre_logits.fc.weight" in shapes else 0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "layer_scale": LAYER_SCALE if "blocks.0.ls1.gamma" in shapes else None,
    }


def _shape(shapes: Mapping[str, Shape], name: str, axes: int) -> Shape:
    if name not in shapes:
        raise CheckpointError(f"a ViT needs {name}, which is missing or of an impossible shape")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise CheckpointError(f"{name} has the shape {shapes[name]}; it takes {axes} axes, none of them empty")
    return shapes[name]


def _num_heads(shapes: Mapping[str, Shape], fields: Mapping[str, Any], notes: list[str]) -> int:
    width = fields["width"]
    if "blocks.0.attn.q_norm.weight" in shapes:
        return width // _shape(shapes, "blocks.0.attn.q_norm.weight", 1)[0]
    # The gated ViTs (DINOv2 giant) have heads of the common width, others of 1536 have 16.
    if width in HEADS and fields["mlp"] == "mlp":
        notes.append(f"{HEADS[width]} heads: the file does not say, ViTs of width {width} have that many")
        return HEADS[width]
    if width % HEAD_WIDTH == 0:
        notes.append(f"{width // HEAD_WIDTH} heads: the file does not say, taken as {HEAD_WIDTH} wide each")
        return width // HEAD_WIDTH
    raise CheckpointError(
        f"the file does not say how many heads share the width {width}: "
        "state config={'num_heads': ...} (--set num_heads=...)"
    )


def _positions(
    shapes: Mapping[str, Shape], fields: Mapping[str, Any], image_size: tuple[int, int] | None, notes: list[str]
) -> dict[str, Any]:
    """Image size, kind of positions, and which tokens have a row in the table."""
    patch = fields["patch_size"]
    if fields.get("position") in ("none", "sincos2d") or "pos_embed" not in shapes:
        size = fields.get("image_size") or image_size
        if size is None:
            size = (224 // patch[0] * patch[0] or patch[0], 224 // patch[1] * patch[1] or patch[1])
            notes.append(f"image size {size[0]}x{size[1]}: the file has no position table that would tell")
        return {"image_size": size, "position": fields.get("position", "none"), "position_tokens": "patches"}
    rows = _shape(shapes, "pos_embed", 3)[1]
    specials = {
        "patches": 0,
        "class+patches": int(fields["class_token"]),
        "all": int(fields["class_token"]) + fields["num_registers"],
    }
    order: Sequence[str] = fields.get("position_order", ("class+patches", "all", "patches"))
    if "position_tokens" in fields:
        order = (fields["position_tokens"],)
    stated = [size for size in (fields.get("image_size"), image_size) if size is not None]
    for size in stated:
        for tokens in order:
            if (size[0] // patch[0]) * (size[1] // patch[1]) == rows - specials[tokens]:
                return {"image_size": size, "position": "learned", "position_tokens": tokens}
    if "image_size" in fields:
        size = fields["image_size"]
        raise CheckpointError(
            f"the config says image_size {size[0]}x{size[1]}, {size[0] // patch[0]}x{size[1] // patch[1]} patches, "
            f"but the position table has {rows} rows"
        )
    for tokens in order:
        side = math.isqrt(max(rows - specials[tokens], 0))
        if side and side * side == rows - specials[tokens]:
            size = (side * patch[0], side * patch[1])
            if tokens == "patches" and fields["class_token"] and len(order) > 1:
                notes.append("no positions for special tokens: the rows of the table are a square without them")
            return {"image_size": size, "position": "learned", "position_tokens": tokens}
    raise CheckpointError(
        f"a position table of {rows} rows is no square grid: "
        "state image_size=(rows, columns) in pixels (--set image_size='[rows, columns]')"
    )
