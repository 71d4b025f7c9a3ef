"""Hugging Face transformers' DINOv2, with or without registers, SwiGLU and a linear head."""

from pathlib import Path

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface import ALIASES, LAYER, MASK_TOKEN, _folder
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.checkpoints.tensors import Tensors, fuse_pairs
from vitkit.models.vit import Config

PAIRS = {
    "patch_embed.proj.{leaf}": "embeddings.patch_embeddings.projection.{leaf}",
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "blocks.{i}.norm1.{leaf}": f"{LAYER}.norm1.{{leaf}}",
    "blocks.{i}.attn.proj.{leaf}": f"{LAYER}.attention.output.dense.{{leaf}}",
    "blocks.{i}.ls1.gamma": f"{LAYER}.layer_scale1.lambda1",
    "blocks.{i}.norm2.{leaf}": f"{LAYER}.norm2.{{leaf}}",
    "blocks.{i}.ls2.gamma": f"{LAYER}.layer_scale2.lambda1",
    "norm.{leaf}": "layernorm.{leaf}",
    "head.{leaf}": "classifier.{leaf}",
}
QKV = tuple(f"{LAYER}.attention.attention.{part}.{{leaf}}" for part in ("query", "key", "value"))
TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in PAIRS.items()),
        Rule("blocks.{i}.attn.qkv.{leaf}", QKV, FUSED3),
        *(Rule(f"blocks.{{i}}.mlp.{fc}.{{leaf}}", (f"{LAYER}.mlp.{fc}.{{leaf}}",)) for fc in ("fc1", "fc2")),
    )
)
CONFIG_DEFAULTS = {"layer_norm_eps": 1e-6}
DEFAULTS = {"activation": "gelu", "norm_eps": 1e-6, "position_order": ("class+patches",), "init": "truncated"}


def arrange(tensors: Tensors) -> Tensors:
    """Renames SwiGLU weights to fc1 and fc2. Gate and value weights, separate in transformers 5, are concatenated."""

    def rename(name: str) -> str:
        for old, new in (("weights_in", "fc1"), ("weights_out", "fc2"), ("down_proj", "fc2")):
            name = name.replace(f".mlp.{old}.", f".mlp.{new}.")
        return name

    pairs = fuse_pairs(tensors, r"(.*\.mlp)\.gate_proj\.(weight|bias)", r"\1.up_proj.\2", r"\1.fc1.\2")
    return pairs.renamed(rename)


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw, CONFIG_DEFAULTS, notes)
    # DINOv2 computes the MLP width from mlp_ratio and ignores intermediate_size.
    file_config.pop("mlp_width", None)
    shapes = TABLE.shapes(raw.tensors)
    defaults = DEFAULTS | {
        "position_resize": "bicubic_antialias" if "reg_token" in shapes else "bicubic",
        "stochastic_depth_shape": "constant",
        "pool": "token+gap" if "head.weight" in shapes else "token",
    }
    if "blocks.0.ls1.gamma" in shapes:
        file_config["layer_scale"] = _folder.option(raw, "layerscale_value", 1.0)
    config = infer_vit(
        shapes,
        defaults=defaults,
        file_config=file_config,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    processor = _folder.read_processor(raw, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def _ratio(config: Config) -> int | None:
    """Returns the integer `mlp_ratio` that gives the MLP width of the model, or None if no integer does."""
    for ratio in range(1, 17):
        hidden = config.width * ratio
        if (hidden if config.mlp == "mlp" else (int(hidden * 2 / 3) + 7) // 8 * 8) == config.mlp_width:
            return ratio
    return None


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if transformers' DINOv2 cannot represent the config, otherwise None."""
    title = "transformers' DINOv2"
    if config.layer_scale is None:
        return f"{title} always has LayerScale, but this model has none; use to='vitkit'"
    if _ratio(config) is None:
        return f"{title} does not support mlp_width {config.mlp_width} with width {config.width}; use to='vitkit'"
    fixed = {"pool": "token+gap" if config.num_classes else "token", "position_tokens": "class+patches"}
    free = ("activation", "norm_eps", "qkv_bias", "num_registers", "layer_scale", "mlp")
    return unsupported_field(config, title, fixed=fixed, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint folder that transformers can load."""
    config = checkpoint.model.config
    kind = "Dinov2WithRegisters" if config.num_registers else "Dinov2"
    model_type = "dinov2_with_registers" if config.num_registers else "dinov2"
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    # The library's class always has a mask token.
    tensors["embeddings.mask_token"] = tensors["embeddings.cls_token"][0].new_zeros(1, config.width)
    if config.mlp == "swiglu":
        swaps = ((".mlp.fc1.", ".mlp.weights_in."), (".mlp.fc2.", ".mlp.weights_out."))
        for old, new in swaps:
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    config_json = {
        "architectures": [f"{kind}ForImageClassification" if config.num_classes else f"{kind}Model"],
        "model_type": model_type,
        "mlp_ratio": _ratio(config),
        "use_swiglu_ffn": config.mlp == "swiglu",
        "layerscale_value": config.layer_scale,
        "drop_path_rate": config.stochastic_depth,
        **({"num_register_tokens": config.num_registers} if config.num_registers else {}),
    }
    _folder.write_folder(checkpoint, folder, tensors, config_json, f"{model_type}.")


FORMAT = Format(
    name="dinov2_huggingface",
    targets=("dinov2_huggingface", "huggingface"),
    family="vit",
    table=TABLE,
    anchors=(
        r"(?:dinov2(?:_with_registers)?\.)?embeddings\.patch_embeddings\.projection\.weight",
        r"(?:dinov2(?:_with_registers)?\.)?encoder\.layer\.0\.layer_scale1\.lambda1",
    ),
    aliases=((r"^dinov2(_with_registers)?\.", ""), *ALIASES),
    ignored=(MASK_TOKEN,),
    accepts=lambda config: config is None or config.get("model_type") in ("dinov2", "dinov2_with_registers"),
    arrange=arrange,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
