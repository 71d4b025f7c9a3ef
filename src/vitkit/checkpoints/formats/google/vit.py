"""Google's original `.npz` files (google-research/vision_transformer), the names of before and after flax Linen."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.formats.google import _names
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import Rule, Table

WHAT = "Google's .npz"
ATTENTION = "MultiHeadDotProductAttention_1"
DIALECT = {
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
    "position_resize": "bilinear_corners",
    "position_order": ("class+patches",),
}
# What a file of this dialect means, whoever wrote it: a model that differs would be another model once read back.
MEANS = {"activation": "gelu_tanh", "norm_eps": 1e-6}
TABLE = Table(
    (
        *_names.vit(ATTENTION, "LayerNorm_2", "MlpBlock_3"),
        Rule("pos_embed", ("Transformer/posembed_input/pos_embedding",)),
    )
)


def describe(found: Found) -> Description:
    """A file without a class token is read as mean-pooled; one of `unpooled` looks the same: state pool="none"."""
    notes: list[str] = []
    config = infer_vit(
        TABLE.shapes(found.tensors),
        dialect=DIALECT,
        stated={"num_heads": num_heads(found, ATTENTION)},
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.google(config), notes=tuple(notes))


def num_heads(found: Found, attention: str) -> int:
    """The head axis of the first query kernel; 1 where it is missing, which the table then reports."""
    info = found.tensors.infos.get(f"Transformer/encoderblock_0/{attention}/query/kernel")
    return info.shape[1] if info is not None and len(info.shape) == 3 and info.shape[1] else 1


def obstacle(config: Any) -> str | None:
    """Learned positions with a row for the class token, token or mean pooling, tanh-GELU, epsilon 1e-6."""
    if config.class_token and config.position_tokens == "patches":
        return f"{WHAT} has a position for the class token, this model has none; to='big_vision' has none either"
    fixed = {"pool": "token" if config.class_token else "gap"}
    free = ("class_token", "position_tokens", "pre_logits", *MEANS)
    return lacking(config, WHAT, fixed=fixed, free=free) or meaning(config, WHAT, MEANS)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """One archive with the published (pre-Linen) names."""
    write_npz(TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads), path)


FORMAT = Format(
    name="npz",
    targets=("npz",),
    family="vit",
    table=TABLE,
    anchors=(r"embedding/kernel", r"Transformer/posembed_input/pos_embedding"),
    aliases=(
        (r"(encoderblock_\d+)/LayerNorm_1/", r"\1/LayerNorm_2/"),
        (r"(encoderblock_\d+)/MultiHeadDotProductAttention_0/", r"\1/MultiHeadDotProductAttention_1/"),
        (r"(encoderblock_\d+)/MlpBlock_0/", r"\1/MlpBlock_3/"),
    ),
    suffix=".npz",
    accepts=lambda config: True,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
