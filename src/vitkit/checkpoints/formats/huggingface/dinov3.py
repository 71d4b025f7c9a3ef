"""Hugging Face transformers' DINOv3 ViT."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface import MASK_TOKEN, _folder
from vitkit.checkpoints.infer.vit_variants import infer_variant
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.checkpoints.tensors import Shape, Tensors, fuse_pairs
from vitkit.models import dinov3

ATTENTION = "layer.{i}.attention"
PAIRS = {
    "patch_embed.proj.{leaf}": "embeddings.patch_embeddings.{leaf}",
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "blocks.{i}.norm1.{leaf}": "layer.{i}.norm1.{leaf}",
    "blocks.{i}.attn.proj.{leaf}": f"{ATTENTION}.o_proj.{{leaf}}",
    "blocks.{i}.attn.q_bias": f"{ATTENTION}.q_proj.bias",
    "blocks.{i}.attn.v_bias": f"{ATTENTION}.v_proj.bias",
    "blocks.{i}.ls1.gamma": "layer.{i}.layer_scale1.lambda1",
    "blocks.{i}.norm2.{leaf}": "layer.{i}.norm2.{leaf}",
    "blocks.{i}.mlp.fc1.{leaf}": "layer.{i}.mlp.up_proj.{leaf}",
    "blocks.{i}.mlp.fc2.{leaf}": "layer.{i}.mlp.down_proj.{leaf}",
    "blocks.{i}.ls2.gamma": "layer.{i}.layer_scale2.lambda1",
    "norm.{leaf}": "norm.{leaf}",
}
TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in PAIRS.items()),
        Rule("blocks.{i}.attn.qkv.weight", tuple(f"{ATTENTION}.{part}_proj.weight" for part in "qkv"), FUSED3),
    )
)
# The library's defaults for keys that config.json omits.
CONFIG_DEFAULTS = {"layer_norm_eps": 1e-5}
DEFAULTS = {"activation": "gelu", "norm_eps": 1e-5}
# The head dimension is 64 except in the largest size (ViT-7B).
HEADS_OF_WIDTH = {4096: 32}


def arrange(tensors: Tensors) -> Tensors:
    """Concatenates the gate and value weights of SwiGLU under the name of the first MLP layer."""
    return fuse_pairs(tensors, r"(.*\.mlp)\.gate_proj\.(weight|bias)", r"\1.up_proj.\2", r"\1.up_proj.\2")


def family_fields(shapes: dict[str, Shape]) -> dict[str, Any]:
    """Returns the DINOv3 config fields that can be inferred from the tensor shapes, without those of a plain ViT."""
    return {
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
    }


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw, CONFIG_DEFAULTS, notes)
    if _folder.option(raw, "key_bias", False) or not _folder.option(raw, "mlp_bias", True):
        raise CheckpointError(
            "config.json: key_bias=True and mlp_bias=False are not supported; no published DINOv3 has them"
        )
    if _folder.option(raw, "use_gated_mlp", False):
        if file_config["activation"] != "silu":
            raise CheckpointError(
                f"config.json: hidden_act is {file_config['activation']}; a gated MLP needs hidden_act silu"
            )
        # In vitkit `activation` applies to the plain MLP only.
        del file_config["activation"]
    shapes = TABLE.shapes(raw.tensors)
    extra = family_fields(shapes) | {"rotary_base": _folder.option(raw, "rope_theta", 100.0)}
    if raw.config is not None:
        extra["rotary_rescale"] = float(raw.config.get("pos_embed_rescale") or 1.0)
        extra["layer_scale"] = _folder.option(raw, "layerscale_value", 1.0)
        extra["attention_dropout"] = _folder.option(raw, "attention_dropout", 0.0)
    defaults = DEFAULTS | heads(shapes)
    config = infer_variant(
        dinov3.Config, shapes, raw, defaults=defaults, file_config=file_config, extra=extra, notes=notes
    )
    processor = _folder.read_processor(raw, config, 1.0, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def heads(shapes: dict[str, Shape]) -> dict[str, int]:
    """Returns {"num_heads": 32} for width 4096, or {} for other widths, in which every head has width 64."""
    width = shapes.get("patch_embed.proj.weight", (0,))[0]
    return {"num_heads": HEADS_OF_WIDTH[width]} if width in HEADS_OF_WIDTH else {}


def unsupported_reason(config: dinov3.Config) -> str | None:
    """Returns an error message if transformers' DINOv3 cannot represent the config, otherwise None."""
    title = "transformers' DINOv3"
    if config.num_classes:
        return f"{title} has no classifier, but this model has {config.num_classes} classes; use to='vitkit'"
    if config.layer_scale is None:
        return f"{title} always has LayerScale, but this model has none; use to='vitkit'"
    free = (
        "activation",
        "norm_eps",
        "num_registers",
        "layer_scale",
        "mlp",
        "qkv_bias",
        "rotary_base",
        "rotary_rescale",
    )
    return unsupported_field(config, title, fixed={}, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint folder that transformers can load."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    tensors["embeddings.mask_token"] = tensors["embeddings.cls_token"].new_zeros(1, 1, config.width)
    if "embeddings.register_tokens" not in tensors:
        tensors["embeddings.register_tokens"] = tensors["embeddings.cls_token"].new_zeros(1, 0, config.width)
    if config.mlp == "swiglu":
        for name in [name for name in tensors if ".mlp.up_proj." in name]:
            gate, value = tensors.pop(name).chunk(2)
            tensors |= {name.replace("up_proj", "gate_proj"): gate, name: value}
    config_json = {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "use_gated_mlp": config.mlp == "swiglu",
        **({"hidden_act": "silu"} if config.mlp == "swiglu" else {}),
        "num_register_tokens": config.num_registers,
        "layerscale_value": config.layer_scale,
        "query_bias": config.qkv_bias,
        "key_bias": False,
        "value_bias": config.qkv_bias,
        "rope_theta": config.rotary_base,
        "pos_embed_rescale": config.rotary_rescale if config.rotary_rescale > 1 else None,
        "attention_dropout": config.attention_dropout,
        "drop_path_rate": config.stochastic_depth,
    }
    _folder.write_folder(checkpoint, folder, tensors, config_json, "")


FORMAT = Format(
    name="dinov3_huggingface",
    targets=("huggingface",),
    family="dinov3",
    table=TABLE,
    anchors=(r"embeddings\.patch_embeddings\.weight", r"(?:model\.)?layer\.0\.layer_scale1\.lambda1"),
    aliases=((r"^model\.(layer\.|norm\.)", r"\1"),),
    ignored=(MASK_TOKEN,),
    accepts=lambda config: config is None or config.get("model_type") == "dinov3_vit",
    arrange=arrange,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
