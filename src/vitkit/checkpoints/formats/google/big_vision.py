"""big_vision's `.npz` files: ViTs without a position embedding for the class token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.formats.google import _names
from vitkit.checkpoints.formats.google.vit import DEFAULTS, IMPLIED, num_heads
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Info, Shape, Tensors
from vitkit.models.vit import Config

TITLE = "big_vision's .npz"
POOLS = ("token", "gap", "map")
ATTENTION = "MultiHeadDotProductAttention_0"
STACKED = "Transformer/encoderblock/"
PREFIX = "params/"
TABLE = Table(
    (
        *_names.vit(ATTENTION, "LayerNorm_1", "MlpBlock_0"),
        Rule("pos_embed", ("pos_embedding",)),
        Rule("attn_pool.latent", ("MAPHead_0/probe",)),
        *_names.projections("attn_pool.q", f"MAPHead_0/{ATTENTION}", ("query",)),
        *_names.projections("attn_pool.kv", f"MAPHead_0/{ATTENTION}", ("key", "value")),
        *_names.output("attn_pool.proj", f"MAPHead_0/{ATTENTION}"),
        *_names.norm("attn_pool.norm", "MAPHead_0/LayerNorm_0"),
        *_names.dense("attn_pool.mlp.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
        *_names.dense("attn_pool.mlp.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
    )
)


def unstack(tensors: Tensors) -> Tensors:
    """Splits stacked blocks, which are one array with a leading depth axis (from `nn.scan`), into single blocks."""
    stacked = {name: info for name, info in tensors.infos.items() if name.startswith(STACKED)}
    depths = {info.shape[0] if info.shape else 0 for info in stacked.values()}
    if not stacked:
        return tensors
    if len(depths) > 1 or depths == {0} or max(depths) > 1000:
        raise CheckpointError(f"stacked blocks have depths {sorted(depths)}, expected one depth from 1 to 1000")
    infos = {name: info for name, info in tensors.infos.items() if name not in stacked}
    origin: dict[str, tuple[str, int]] = {}
    for name, info in stacked.items():
        for index in range(depths.copy().pop()):
            new = f"Transformer/encoderblock_{index}/{name.removeprefix(STACKED)}"
            infos[new], origin[new] = Info(info.shape[1:], info.dtype), (name, index)
    stacks: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if name not in origin:
            return tensors.read(name)
        source, index = origin[name]
        if source not in stacks:
            stacks[source] = tensors.read(source)
        return stacks[source][index]

    return Tensors(infos, read)


def defaults(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the config fields that the format does not store, for tensors of these shapes."""
    fixed = {} if "pos_embed" in shapes else {"position": "sincos2d"}
    return {**DEFAULTS, **fixed, "position_order": ("patches", "class+patches")}


def describe(raw: RawCheckpoint) -> Description:
    """Infers the config from the tensors. A file without position embedding gets a sine-cosine position embedding."""
    notes: list[str] = []
    shapes = TABLE.shapes(raw.tensors)
    fixed = {}
    if "flexivit" in raw.file_name.lower():
        # FlexiViT resizes positions with jax.image.resize; only the file name identifies it.
        fixed = {"position_resize": "bilinear_antialias"}
        notes.append(
            "FlexiViT (recognized by the file name): position embeddings are resized as in FlexiViT's code; "
            "set the patch size with patch_size=..."
        )
    config = infer_vit(
        shapes,
        defaults=defaults(shapes) | fixed,
        file_config={"num_heads": num_heads(raw, ATTENTION)},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.big_vision(config), notes=tuple(notes))


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if big_vision cannot represent the config, otherwise None."""
    if config.position not in ("learned", "sincos2d"):
        return f"{TITLE} cannot store position='{config.position}'; use to='vitkit'"
    if config.position == "learned" and config.num_special_positions:
        return f"{TITLE} has no position embedding for the class token, but this model has one; use to='npz'"
    fixed = {"class_token": config.pool == "token", "pool": config.pool if config.pool in POOLS else "gap"}
    free = ("position", "position_tokens", "pre_logits", *IMPLIED)
    return unsupported_field(config, TITLE, fixed=fixed, free=free) or implied_mismatch(config, TITLE, IMPLIED)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes an `.npz` archive in which all tensor names start with `params/`."""
    saved = TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads)
    write_npz({PREFIX + name: tensor for name, tensor in saved.items()}, path)


FORMAT = Format(
    name="big_vision",
    targets=("big_vision", "npz"),
    family="vit",
    table=TABLE,
    anchors=(r"embedding/kernel",),
    aliases=(
        (r"(encoderblock(?:_\d+)?)/LayerNorm_2/", r"\1/LayerNorm_1/"),
        (r"(encoderblock(?:_\d+)?)/MultiHeadDotProductAttention_1/", r"\1/MultiHeadDotProductAttention_0/"),
        (r"(encoderblock(?:_\d+)?)/MlpBlock_3/", r"\1/MlpBlock_0/"),
        (r"^Transformer/pos_embedding$", "pos_embedding"),
    ),
    suffix=".npz",
    accepts=lambda config: True,
    arrange=unstack,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
