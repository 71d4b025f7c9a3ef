"""Hugging Face transformers' ViT: the names in its files (v4) and those in memory since 5.9, with or without `vit.`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking
from vitkit.checkpoints.formats.huggingface._config import MODEL_TYPES, read_config, to_config
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.data.processor import Processor

LAYER = "encoder.layer.{i}"
QKV = tuple(f"{LAYER}.attention.attention.{part}.{{leaf}}" for part in ("query", "key", "value"))
PAIRS = {
    "patch_embed.proj.{leaf}": "embeddings.patch_embeddings.projection.{leaf}",
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "blocks.{i}.norm1.{leaf}": f"{LAYER}.layernorm_before.{{leaf}}",
    "blocks.{i}.attn.proj.{leaf}": f"{LAYER}.attention.output.dense.{{leaf}}",
    "blocks.{i}.norm2.{leaf}": f"{LAYER}.layernorm_after.{{leaf}}",
    "blocks.{i}.mlp.fc1.{leaf}": f"{LAYER}.intermediate.dense.{{leaf}}",
    "blocks.{i}.mlp.fc2.{leaf}": f"{LAYER}.output.dense.{{leaf}}",
    "norm.{leaf}": "layernorm.{leaf}",
    "head.{leaf}": "classifier.{leaf}",
}
TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in PAIRS.items()),
        Rule("blocks.{i}.attn.qkv.{leaf}", QKV, FUSED3),
    )
)
DIALECT = {
    "activation": "gelu",
    "norm_eps": 1e-12,
    "position_resize": "bicubic",
    "position_order": ("class+patches",),
}


def describe(found: Found) -> Description:
    """By config.json; a bare state dict by the defaults of transformers' ViTConfig."""
    notes: list[str] = []
    stated: Mapping[str, Any] = {}
    labels: tuple[str, ...] | None = None
    if found.config is None:
        notes.append("no config.json: norm_eps and activation are transformers' defaults")
    else:
        stated, labels = read_config(found.config)
    config = infer_vit(
        TABLE.shapes(found.tensors),
        dialect=DIALECT,
        stated={"class_token": True, "position": "learned", **stated},
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    if found.preprocessor is None:
        notes.append("no preprocessor_config.json: transformers' default is taken")
        processor = preprocessing.fitted(Processor.squash(config.image_size), config)
    else:
        words = found.preprocessor
        processor = preprocessing.stated(lambda: Processor.from_huggingface(words), "preprocessor_config.json")
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """What transformers' ViT has no word for."""
    if config.position_tokens == "patches":
        return "transformers' ViT has a position for the class token, this model has none; to='vitkit' can say it"
    return lacking(
        config, "transformers' ViT", fixed={}, free=("activation", "norm_eps", "qkv_bias", "position_tokens")
    )


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """config.json, model.safetensors with the names of v4 (which v5 writes too), preprocessor_config.json."""
    config = checkpoint.model.config
    saved = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    if config.num_classes:
        saved = {name if name.startswith("classifier.") else f"vit.{name}": tensor for name, tensor in saved.items()}
    write_weights(saved, folder)
    write_json(to_config(checkpoint), folder / "config.json")
    write_json(checkpoint.processor.to_huggingface(), folder / "preprocessor_config.json")


FORMAT = Format(
    name="huggingface",
    targets=("huggingface",),
    family="vit",
    table=TABLE,
    anchors=(r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.weight",),
    aliases=(
        (r"^vit\.", ""),
        (r"^layers\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
        (r"^layers\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
        (r"^layers\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
        (r"^layers\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
        (r"^layers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
        (r"^layers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
        (r"^layers\.(\d+)\.layernorm_", r"encoder.layer.\1.layernorm_"),
    ),
    ignored=(
        (r"pooler\.dense\.(weight|bias)", "the pooler, which classification does not use"),
        (r"embeddings\.mask_token", "the mask token of pre-training"),
        (r"embeddings\.position_ids", "position ids, which are a count"),
        (r"decoder\..*", "the decoder of pre-training"),
    ),
    accepts=lambda config: config is None or config.get("model_type") in MODEL_TYPES,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
