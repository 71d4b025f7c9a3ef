"""Google's original `.npz` files (google-research/vision_transformer), written by any version of Flax."""

from pathlib import Path

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.npz import write_npz
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.formats.google import _names
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import Rule, Table
from vitkit.models.vit import Config

TITLE = "Google's .npz"
ATTENTION = "MultiHeadDotProductAttention_1"
DEFAULTS = {
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
    "position_resize": "bilinear_corners",
    "position_order": ("class+patches",),
}
# The format does not store these. A model with other values would change when loaded again.
IMPLIED = {"activation": "gelu_tanh", "norm_eps": 1e-6}
TABLE = Table(
    (
        *_names.vit(ATTENTION, "LayerNorm_2", "MlpBlock_3"),
        Rule("pos_embed", ("Transformer/posembed_input/pos_embedding",)),
    )
)


def describe(raw: RawCheckpoint) -> Description:
    """Infers the config from the names and shapes of the tensors.

    Without a class token the pool is "gap". For `unpooled` files, which look the same, set pool="none".
    """
    notes: list[str] = []
    config = infer_vit(
        TABLE.shapes(raw.tensors),
        defaults=DEFAULTS,
        file_config={"num_heads": num_heads(raw, ATTENTION)},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.google(config), notes=tuple(notes))


def num_heads(raw: RawCheckpoint, attention: str) -> int:
    """Returns the number of heads in the first query kernel, or 1 if the kernel is missing."""
    info = raw.tensors.infos.get(f"Transformer/encoderblock_0/{attention}/query/kernel")
    return info.shape[1] if info is not None and len(info.shape) == 3 and info.shape[1] else 1


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if the original implementation cannot represent the config, otherwise None."""
    if config.class_token and config.position_tokens == "patches":
        return f"{TITLE} has a position embedding for the class token, but this model has none; use to='big_vision'"
    fixed = {"pool": "token" if config.class_token else "gap"}
    free = ("class_token", "position_tokens", "pre_logits", *IMPLIED)
    return unsupported_field(config, TITLE, fixed=fixed, free=free) or implied_mismatch(config, TITLE, IMPLIED)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes an `.npz` archive with the tensor names of the published checkpoints, which predate Flax Linen."""
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
    unsupported_reason=unsupported_reason,
    write=write,
)
