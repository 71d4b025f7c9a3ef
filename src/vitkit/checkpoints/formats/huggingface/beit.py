"""Hugging Face transformers' BEiT: the classifier, and the encoder from masked image modeling."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface import ALIASES, MASK_TOKEN, MLP_ALIASES, _folder, vit
from vitkit.checkpoints.infer.vit_variants import infer_variant, relative_image_size
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.checkpoints.tensors import Shape
from vitkit.models import beit

SELF = "encoder.layer.{i}.attention.attention"
OWN_TABLE = "attention.attention.relative_position_bias.relative_position_bias_table"
TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in vit.PAIRS.items()),
        Rule(
            "blocks.{i}.attn.qkv.weight", tuple(f"{SELF}.{part}.weight" for part in ("query", "key", "value")), FUSED3
        ),
        Rule("blocks.{i}.attn.q_bias", (f"{SELF}.query.bias",)),
        Rule("blocks.{i}.attn.v_bias", (f"{SELF}.value.bias",)),
        Rule("blocks.{i}.attn.relative_position_bias_table", (f"encoder.layer.{{i}}.{OWN_TABLE}",)),
        Rule(
            "rel_pos_bias.relative_position_bias_table",
            ("encoder.relative_position_bias.relative_position_bias_table",),
        ),
        Rule("blocks.{i}.ls1.gamma", ("encoder.layer.{i}.lambda_1",)),
        Rule("blocks.{i}.ls2.gamma", ("encoder.layer.{i}.lambda_2",)),
        Rule("fc_norm.{leaf}", ("pooler.layernorm.{leaf}",)),
    )
)
TABLES = ("blocks.0.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table")
DEFAULTS = {**vit.DEFAULTS, "relative_resize": "bilinear"}


def family_fields(shapes: dict[str, Shape]) -> dict[str, Any]:
    """Returns the BEiT config fields that can be inferred from the tensor shapes."""
    relative = next((kind for kind, name in zip(("blocks", "shared"), TABLES, strict=True) if name in shapes), "none")
    pool = "gap" if "fc_norm.weight" in shapes else "token"
    return {"relative": relative, "pool": pool, "position": "learned" if "pos_embed" in shapes else "none"}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw, {}, notes)
    shapes = TABLE.shapes(raw.tensors)
    file_config |= relative_image_size(shapes, TABLES, file_config, raw)
    extra = family_fields(shapes) | {"relative_resize": "bilinear"}
    if "blocks.0.ls1.gamma" in shapes:
        extra["layer_scale"] = _folder.option(raw, "layer_scale_init_value", 0.1)
    config = infer_variant(
        beit.Config, shapes, raw, defaults=DEFAULTS, file_config=file_config, extra=extra, notes=notes
    )
    processor = _folder.read_processor(raw, config, 7 / 8 if max(config.image_size) < 384 else 1.0, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: beit.Config) -> str | None:
    """Returns an error message if transformers' BEiT cannot represent the config, otherwise None."""
    free = ("activation", "norm_eps", "relative", "position", "layer_scale", "pool", "relative_resize")
    return unsupported_field(config, "transformers' BEiT", fixed={}, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a folder for `BeitForImageClassification`, or for `BeitModel` if the model has no classes."""
    config = checkpoint.model.config
    config_json = {
        "architectures": ["BeitForImageClassification" if config.num_classes else "BeitModel"],
        "model_type": "beit",
        "use_relative_position_bias": config.relative == "blocks",
        "use_shared_relative_position_bias": config.relative == "shared",
        "use_absolute_position_embeddings": config.position == "learned",
        "use_mean_pooling": config.pool == "gap",
        "layer_scale_init_value": config.layer_scale or 0.0,
        "drop_path_rate": config.stochastic_depth,
    }
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    _folder.write_folder(checkpoint, folder, tensors, config_json, "beit.")


FORMAT = Format(
    name="beit_huggingface",
    targets=("huggingface",),
    family="beit",
    table=TABLE,
    anchors=(r"(?:beit\.)?embeddings\.patch_embeddings\.projection\.weight",),
    aliases=(
        (r"^beit\.", ""),
        (r"^shared_position_bias\.", "encoder.relative_position_bias."),
        (r"^layers\.(\d+)\.relative_position_bias\.relative_position_bias_table$", rf"encoder.layer.\1.{OWN_TABLE}"),
        *ALIASES,
        *MLP_ALIASES,
    ),
    ignored=(
        MASK_TOKEN,
        (r"lm_head\.(weight|bias)", "the head of masked image modeling"),
        (r".*relative_position_index", "index tables, which vitkit computes"),
    ),
    accepts=lambda config: config is None or config.get("model_type") == "beit",
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
