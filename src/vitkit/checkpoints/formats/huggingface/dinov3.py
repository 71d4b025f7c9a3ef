"""Hugging Face transformers' DINOv3 ViT."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking
from vitkit.checkpoints.formats.huggingface import MASK_TOKEN
from vitkit.checkpoints.formats.huggingface import _folder as library
from vitkit.checkpoints.infer.vit_variants import infer_like
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.checkpoints.tensors import Tensors, fused
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
# The library's own defaults, where a config.json leaves them out.
DEFAULTS = {"layer_norm_eps": 1e-5}
DIALECT = {"activation": "gelu", "norm_eps": 1e-5}
# Heads are 64 wide in all sizes but the largest.
HEADS_OF_WIDTH = {4096: 32}


def arrange(tensors: Tensors) -> Tensors:
    """The gated MLP's gate and value as one, where the plain one's first matrix is."""
    return fused(tensors, r"(.*\.mlp)\.gate_proj\.(weight|bias)", r"\1.up_proj.\2", r"\1.up_proj.\2")


def own_fields(shapes: dict[str, Any]) -> dict[str, Any]:
    """What the tensors say that a plain ViT has not."""
    return {
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
    }


def describe(found: Found) -> Description:
    """By config.json; a bare state dict by the library's defaults."""
    notes: list[str] = []
    stated, labels = library.stated_config(found, DEFAULTS, notes)
    if library.option(found, "key_bias", False) or not library.option(found, "mlp_bias", True):
        raise CheckpointError("config.json: key_bias and mlp_bias are those of no published DINOv3")
    if library.option(found, "use_gated_mlp", False):
        if stated["activation"] != "silu":
            raise CheckpointError(
                f"config.json: a gated MLP with hidden_act {stated['activation']}, where all have silu"
            )
        # Ours is of the plain MLP.
        del stated["activation"]
    shapes = TABLE.shapes(found.tensors)
    own = own_fields(shapes) | {"rotary_base": library.option(found, "rope_theta", 100.0)}
    if found.config is not None:
        own["rotary_rescale"] = float(found.config.get("pos_embed_rescale") or 1.0)
        own["layer_scale"] = library.option(found, "layerscale_value", 1.0)
        own["attention_dropout"] = library.option(found, "attention_dropout", 0.0)
    dialect = DIALECT | heads(shapes)
    config = infer_like(dinov3.Config, shapes, found, dialect=dialect, stated=stated, own=own, notes=notes)
    processor = library.stated_processor(found, config, 1.0, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def heads(shapes: dict[str, Any]) -> dict[str, int]:
    """The number of heads of the size whose heads are not 64 wide."""
    width = shapes.get("patch_embed.proj.weight", (0,))[0]
    return {"num_heads": HEADS_OF_WIDTH[width]} if width in HEADS_OF_WIDTH else {}


def obstacle(config: Any) -> str | None:
    """What transformers' DINOv3 has no word for."""
    what = "transformers' DINOv3"
    if config.num_classes:
        return f"{what} has no class with a head, this model has {config.num_classes} classes; to='vitkit' can say it"
    if config.layer_scale is None:
        return f"{what} always has LayerScale, this model has none; to='vitkit' can say it"
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
    return lacking(config, what, fixed={}, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder in the library's own layout."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    tensors["embeddings.mask_token"] = tensors["embeddings.cls_token"].new_zeros(1, 1, config.width)
    if "embeddings.register_tokens" not in tensors:
        tensors["embeddings.register_tokens"] = tensors["embeddings.cls_token"].new_zeros(1, 0, config.width)
    if config.mlp == "swiglu":
        for name in [name for name in tensors if ".mlp.up_proj." in name]:
            gate, value = tensors.pop(name).chunk(2)
            tensors |= {name.replace("up_proj", "gate_proj"): gate, name: value}
    stated = {
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
    library.write_folder(checkpoint, folder, tensors, stated, "")


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
    obstacle=obstacle,
    write=write,
)
