"""big_vision's `.npz` files: positions on patches only, token, mean or MAP pooling, blocks one by one or stacked."""

from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.formats.google import _names
from vitkit.checkpoints.formats.google.vit import DIALECT, MEANS, num_heads
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Info, Tensors

WHAT = "big_vision's .npz"
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


def unstacked(tensors: Tensors) -> Tensors:
    """Blocks that a scan over depth stored as one array with a leading axis, one by one."""
    stacked = {name: info for name, info in tensors.infos.items() if name.startswith(STACKED)}
    depths = {info.shape[0] if info.shape else 0 for info in stacked.values()}
    if not stacked:
        return tensors
    if len(depths) > 1 or depths == {0} or max(depths) > 1000:
        raise CheckpointError(f"the stacked blocks have depths {sorted(depths)}")
    infos = {name: info for name, info in tensors.infos.items() if name not in stacked}
    origin: dict[str, tuple[str, int]] = {}
    for name, info in stacked.items():
        for index in range(depths.copy().pop()):
            new = f"Transformer/encoderblock_{index}/{name.removeprefix(STACKED)}"
            infos[new], origin[new] = Info(info.shape[1:], info.dtype), (name, index)
    whole: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if name not in origin:
            return tensors.read(name)
        source, index = origin[name]
        if source not in whole:
            whole[source] = tensors.read(source)
        return whole[source][index]

    return Tensors(infos, read)


def describe(found: Found) -> Description:
    """A file without a position table has the fixed sine-cosine one."""
    notes: list[str] = []
    shapes = TABLE.shapes(found.tensors)
    fixed = {} if "pos_embed" in shapes else {"position": "sincos2d"}
    if "flexivit" in found.file_name.lower():
        # Its code resizes tables with jax.image.resize; nothing but its name tells a FlexiViT.
        fixed = {"position_resize": "bilinear_antialias"}
        notes.append("a FlexiViT by its name: positions are resized as its code does, patch_size=... sets the patches")
    config = infer_vit(
        shapes,
        dialect=DIALECT | fixed | {"position_order": ("patches", "class+patches")},
        stated={"num_heads": num_heads(found, ATTENTION)},
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.big_vision(config), notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """Positions on patches only or none stored, tanh-GELU, epsilon 1e-6."""
    if config.position not in ("learned", "sincos2d"):
        return f"{WHAT} cannot say position='{config.position}'; to='vitkit' can"
    if config.position == "learned" and config.num_special_positions:
        return f"{WHAT} has no position for the class token, this model has one; to='npz' has it too"
    fixed = {"class_token": config.pool == "token", "pool": config.pool if config.pool in POOLS else "gap"}
    free = ("position", "position_tokens", "pre_logits", *MEANS)
    return lacking(config, WHAT, fixed=fixed, free=free) or meaning(config, WHAT, MEANS)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """One archive, everything under `params/`."""
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
    arrange=unstacked,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
