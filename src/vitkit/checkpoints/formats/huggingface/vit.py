"""Hugging Face transformers' ViT. Reads the tensor names of transformers 4 (used in files) and 5 (in memory)."""

from pathlib import Path

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface._config import MODEL_TYPES, read_config, to_config
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.json_files import Json, write_json
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.data.processor import Processor
from vitkit.models.vit import Config

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
DEFAULTS = {
    "activation": "gelu",
    "norm_eps": 1e-12,
    "position_resize": "bicubic",
    "position_order": ("class+patches",),
}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes: list[str] = []
    file_config: Json = {}
    labels: tuple[str, ...] | None = None
    if raw.config is None:
        notes.append("no config.json: using transformers' default norm_eps and activation")
    else:
        file_config, labels = read_config(raw.config)
    config = infer_vit(
        TABLE.shapes(raw.tensors),
        defaults=DEFAULTS,
        file_config={"class_token": True, "position": "learned", **file_config},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    if raw.preprocessor is None:
        notes.append("no preprocessor_config.json: using transformers' default preprocessing")
        processor = preprocessing.fitted(Processor.squash(config.image_size), config)
    else:
        data = raw.preprocessor
        processor = preprocessing.stated(lambda: Processor.from_huggingface(data), "preprocessor_config.json")
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if transformers' ViT cannot represent the config, otherwise None."""
    if config.position_tokens == "patches":
        return "transformers' ViT has a position for the class token, but this model has none; use to='vitkit'"
    return unsupported_field(
        config, "transformers' ViT", fixed={}, free=("activation", "norm_eps", "qkv_bias", "position_tokens")
    )


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes config.json, preprocessor_config.json and model.safetensors with the tensor names of transformers 4."""
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
        (r"embeddings\.position_ids", "position ids, a range of integers"),
        (r"decoder\..*", "the decoder of pre-training"),
    ),
    accepts=lambda config: config is None or config.get("model_type") in MODEL_TYPES,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
