"""Hugging Face transformers' DINOv2, with and without registers, plain or gated, with or without the linear head."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking
from vitkit.checkpoints.formats.huggingface import ALIASES, LAYER, MASK_TOKEN
from vitkit.checkpoints.formats.huggingface import _folder as library
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.checkpoints.tensors import Tensors, fused

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
DEFAULTS = {"layer_norm_eps": 1e-6}
DIALECT = {"activation": "gelu", "norm_eps": 1e-6, "position_order": ("class+patches",), "init": "truncated"}


def arrange(tensors: Tensors) -> Tensors:
    """The gated MLP under the names of the plain one: since transformers 5 its gate and value are two matrices."""

    def rename(name: str) -> str:
        for old, new in (("weights_in", "fc1"), ("weights_out", "fc2"), ("down_proj", "fc2")):
            name = name.replace(f".mlp.{old}.", f".mlp.{new}.")
        return name

    pairs = fused(tensors, r"(.*\.mlp)\.gate_proj\.(weight|bias)", r"\1.up_proj.\2", r"\1.fc1.\2")
    return pairs.renamed(rename)


def describe(found: Found) -> Description:
    """By config.json; a bare state dict by the library's defaults."""
    notes: list[str] = []
    stated, labels = library.stated_config(found, DEFAULTS, notes)
    # Stated for a plain ViT's MLP, where here a ratio counts.
    stated.pop("mlp_width", None)
    shapes = TABLE.shapes(found.tensors)
    dialect = DIALECT | {
        "position_resize": "bicubic_antialias" if "reg_token" in shapes else "bicubic",
        "stochastic_depth_shape": "constant",
        "pool": "token+gap" if "head.weight" in shapes else "token",
    }
    if "blocks.0.ls1.gamma" in shapes:
        stated["layer_scale"] = library.option(found, "layerscale_value", 1.0)
    config = infer_vit(
        shapes,
        dialect=dialect,
        stated=stated,
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    processor = library.stated_processor(found, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def _ratio(config: Any) -> int | None:
    """The whole number from which the library works out the width of the MLP; None where there is none."""
    for ratio in range(1, 17):
        hidden = config.width * ratio
        if (hidden if config.mlp == "mlp" else (int(hidden * 2 / 3) + 7) // 8 * 8) == config.mlp_width:
            return ratio
    return None


def obstacle(config: Any) -> str | None:
    """What transformers' DINOv2 has no word for."""
    what = "transformers' DINOv2"
    if config.layer_scale is None:
        return f"{what} always has LayerScale, this model has none; to='vitkit' can say it"
    if _ratio(config) is None:
        return f"{what} has no MLP of width {config.mlp_width} for width {config.width}; to='vitkit' can say it"
    fixed = {"pool": "token+gap" if config.num_classes else "token", "position_tokens": "class+patches"}
    free = ("activation", "norm_eps", "qkv_bias", "num_registers", "layer_scale", "mlp")
    return lacking(config, what, fixed=fixed, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder in the library's own layout."""
    config = checkpoint.model.config
    kind = "Dinov2WithRegisters" if config.num_registers else "Dinov2"
    model_type = "dinov2_with_registers" if config.num_registers else "dinov2"
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    # The library's class has it, whether used or not.
    tensors["embeddings.mask_token"] = tensors["embeddings.cls_token"][0].new_zeros(1, config.width)
    if config.mlp == "swiglu":
        swaps = ((".mlp.fc1.", ".mlp.weights_in."), (".mlp.fc2.", ".mlp.weights_out."))
        for old, new in swaps:
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    stated = {
        "architectures": [f"{kind}ForImageClassification" if config.num_classes else f"{kind}Model"],
        "model_type": model_type,
        "mlp_ratio": _ratio(config),
        "use_swiglu_ffn": config.mlp == "swiglu",
        "layerscale_value": config.layer_scale,
        "drop_path_rate": config.stochastic_depth,
        **({"num_register_tokens": config.num_registers} if config.num_registers else {}),
    }
    library.write_folder(checkpoint, folder, tensors, stated, f"{model_type}.")


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
    obstacle=obstacle,
    write=write,
)
