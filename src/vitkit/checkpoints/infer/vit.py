"""Infers the config of a plain ViT from the shapes of its tensors.

Shapes do not determine num_heads, activation and norm_eps. They come from the caller's overrides, else the file's
config.json, else the format's defaults, else (num_heads) the table of known widths.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.tensors import Shape
from vitkit.models.vit import SIZES, Config

#: Config fields by name.
Fields = Mapping[str, Any]
HEADS = {width: heads for width, _, heads, _ in SIZES.values()}
# The head dimension of every ViT up to ViT-L.
HEAD_WIDTH = 64
# Files do not store the initial value of LayerScale; DINOv2's is used.
LAYER_SCALE = 1e-5
# Sine-cosine tables are computed from config.json: limits the memory that an untrusted file can allocate.
MAX_FIXED_POSITIONS = 65_536
STRUCTURE = ("patch_size", "channels", "width", "depth", "mlp_width", "num_classes", "pre_norm", "norm")


def infer_vit(
    shapes: Mapping[str, Shape],
    *,
    defaults: Fields,
    file_config: Fields,
    overrides: Fields,
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> Config:
    """Infers the config of a ViT from the shapes of its tensors, which have vitkit's names.

    `defaults` (of the format), `file_config` (of the file) and `overrides` (of the caller) map fields of `Config` to
    values. `image_size` is tried if none of them sets it. Guessed values are added to `notes`. Raises CheckpointError
    if the sources contradict each other or do not determine the config.
    """
    overrides = parse_overrides(Config, overrides)
    known = get_type_hints(Config)
    from_file = {name: value for name, value in file_config.items() if name in known}
    file_config = _typed(Config, from_file, {}, "config.json")
    seen = _structure(shapes)
    if file_config.get("norm") == "none" and "norm.weight" not in shapes and seen["norm"] == "tokens":
        seen["norm"] = "none"  # without a config, a missing norm is an error
    for name in STRUCTURE:
        if name in file_config and file_config[name] != seen[name]:
            raise CheckpointError(f"config.json: {name} is {file_config[name]}, but the tensors have {seen[name]}")
    fields = {**defaults, **seen, **file_config, **overrides}
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


def parse_overrides(cls: type, overrides: Fields) -> dict[str, Any]:
    """Converts overrides to the types of config fields. Strings are parsed. One integer sets both sides of a size."""
    plain = {name: configs.parse(value) if isinstance(value, str) else value for name, value in overrides.items()}
    sides = {name: (value, value) for name, value in plain.items() if name.endswith("_size") and isinstance(value, int)}
    return _typed(cls, plain | sides, overrides, "config")


def _typed(cls: type, values: Fields, texts: Fields, where: str) -> dict[str, Any]:
    """Converts values to the types of config fields. `texts` contains the strings from which values were parsed."""
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
    """Raises CheckpointError if a sine-cosine position embedding for the image size has too many positions."""
    if getattr(config, "position", None) == "sincos2d" and math.prod(config.grid) > MAX_FIXED_POSITIONS:
        raise CheckpointError(
            f"image_size {config.image_size} has {math.prod(config.grid):,} patches; a sine-cosine position embedding "
            f"supports at most {MAX_FIXED_POSITIONS:,}"
        )


def _structure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    width, channels, rows, columns = _shape(shapes, "patch_embed.proj.weight", 4)
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    if absent := sorted(set(range(len(blocks))) - blocks):
        raise CheckpointError(
            f"blocks are missing: {listing([f'block {index}' for index in absent])}; save the full state_dict"
        )
    qkv = _shape(shapes, "blocks.0.attn.qkv.weight", 2)
    if qkv != (3 * width, width):
        raise CheckpointError(
            f"the patch embedding has width {width}, but blocks.0.attn.qkv has shape {qkv}; "
            f"expected {(3 * width, width)}"
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
        "pre_norm": "norm_pre.weight" in shapes,
        # Only CLIP's patch embedding has no bias; elsewhere, a missing bias is an error.
        "patch_bias": "patch_embed.proj.bias" in shapes or "norm_pre.weight" not in shapes,
        "pre_logits": _shape(shapes, "pre_logits.fc.weight", 2)[0] if "pre_logits.fc.weight" in shapes else 0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "layer_scale": LAYER_SCALE if "blocks.0.ls1.gamma" in shapes else None,
    }


def _shape(shapes: Mapping[str, Shape], name: str, axes: int) -> Shape:
    if name not in shapes:
        raise CheckpointError(f"{name} is missing or has an invalid shape")
    if len(shapes[name]) != axes or 0 in shapes[name]:
        raise CheckpointError(f"{name} has shape {shapes[name]}, expected {axes} non-empty axes")
    return shapes[name]


def _num_heads(shapes: Mapping[str, Shape], fields: Fields, notes: list[str]) -> int:
    width = fields["width"]
    if "blocks.0.attn.q_norm.weight" in shapes:
        return width // _shape(shapes, "blocks.0.attn.q_norm.weight", 1)[0]
    # SwiGLU ViTs of width 1536 (DINOv2 giant) have 24 heads, other ViTs of that width have 16.
    if width in HEADS and fields["mlp"] == "mlp":
        notes.append(f"num_heads is not in the file: using {HEADS[width]}, as in ViTs of width {width}")
        return HEADS[width]
    if width % HEAD_WIDTH == 0:
        notes.append(f"num_heads is not in the file: using {width // HEAD_WIDTH}, for a head dimension of {HEAD_WIDTH}")
        return width // HEAD_WIDTH
    raise CheckpointError(
        f"num_heads is not in the file and cannot be inferred from width {width}; "
        "set config={'num_heads': ...} (--set num_heads=...)"
    )


def _positions(
    shapes: Mapping[str, Shape], fields: Fields, image_size: tuple[int, int] | None, notes: list[str]
) -> dict[str, Any]:
    """Infers image_size, position and position_tokens from the position embedding."""
    patch = fields["patch_size"]
    if fields.get("position") in ("none", "sincos2d") or "pos_embed" not in shapes:
        size = fields.get("image_size") or image_size
        if size is None:
            size = (224 // patch[0] * patch[0] or patch[0], 224 // patch[1] * patch[1] or patch[1])
            notes.append(f"image_size is not in the file: using {size[0]}x{size[1]}")
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
    sizes = [size for size in (fields.get("image_size"), image_size) if size is not None]
    for size in sizes:
        for tokens in order:
            if (size[0] // patch[0]) * (size[1] // patch[1]) == rows - specials[tokens]:
                return {"image_size": size, "position": "learned", "position_tokens": tokens}
    if "image_size" in fields:
        size = fields["image_size"]
        raise CheckpointError(
            f"image_size {size[0]}x{size[1]} has {size[0] // patch[0]}x{size[1] // patch[1]} patches, "
            f"but the position embedding has {rows} rows"
        )
    for tokens in order:
        side = math.isqrt(max(rows - specials[tokens], 0))
        if side and side * side == rows - specials[tokens]:
            size = (side * patch[0], side * patch[1])
            if tokens == "patches" and fields["class_token"] and len(order) > 1:
                notes.append("no positions for special tokens: the position embedding has rows only for patches")
            return {"image_size": size, "position": "learned", "position_tokens": tokens}
    raise CheckpointError(
        f"a position embedding with {rows} rows is not a square grid; "
        "set image_size=(height, width) in pixels (--set image_size='[height, width]')"
    )
