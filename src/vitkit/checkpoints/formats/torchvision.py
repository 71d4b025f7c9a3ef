"""torchvision's `VisionTransformer` state dicts, old and new names."""

from pathlib import Path
from typing import Any

import torch

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import Rule, Table

WHAT = "torchvision's VisionTransformer"
MEANS = {"activation": "gelu", "norm_eps": 1e-6}
LAYER = "encoder.layers.encoder_layer_{i}"
PAIRS = {
    "patch_embed.proj.{leaf}": "conv_proj.{leaf}",
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "blocks.{i}.norm1.{leaf}": f"{LAYER}.ln_1.{{leaf}}",
    "blocks.{i}.attn.qkv.{leaf}": f"{LAYER}.self_attention.in_proj_{{leaf}}",
    "blocks.{i}.attn.proj.{leaf}": f"{LAYER}.self_attention.out_proj.{{leaf}}",
    "blocks.{i}.norm2.{leaf}": f"{LAYER}.ln_2.{{leaf}}",
    "blocks.{i}.mlp.fc1.{leaf}": f"{LAYER}.mlp.0.{{leaf}}",
    "blocks.{i}.mlp.fc2.{leaf}": f"{LAYER}.mlp.3.{{leaf}}",
    "norm.{leaf}": "encoder.ln.{leaf}",
    "pre_logits.fc.{leaf}": "heads.pre_logits.{leaf}",
    "head.{leaf}": "heads.head.{leaf}",
}
TABLE = Table(tuple(Rule(ours, (theirs,)) for ours, theirs in PAIRS.items()))


def describe(found: Found) -> Description:
    """A state dict holds no config: heads by the table of widths, the rest as the class has it."""
    notes: list[str] = []
    config = infer_vit(
        TABLE.shapes(found.tensors),
        dialect={
            "activation": "gelu",
            "norm_eps": 1e-6,
            "position_resize": "bicubic",
            "position_order": ("class+patches",),
        },
        stated={"class_token": True, "position": "learned"},
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.torchvision(config), notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """The paper's model alone, square, with exact GELU and epsilon 1e-6."""
    if config.position_tokens == "patches":
        return f"{WHAT} has a position for the class token, this model has none; to='vitkit' can say it"
    if config.patch_size[0] != config.patch_size[1] or config.image_size[0] != config.image_size[1]:
        return f"{WHAT} is square, not {config.image_size}; to='huggingface' can say it"
    if config.channels != 3:
        return f"{WHAT} has 3 channels, not {config.channels}; to='huggingface' can say it"
    said = lacking(config, WHAT, fixed={}, free=("position_tokens", "pre_logits", *MEANS))
    return said or meaning(config, WHAT, MEANS)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """A state dict of plain tensors, as `torch.save` writes it."""
    torch.save(TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads), path)


FORMAT = Format(
    name="torchvision",
    targets=("torchvision",),
    family="vit",
    table=TABLE,
    anchors=(r"conv_proj\.weight", r"class_token", r"encoder\.pos_embedding"),
    aliases=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    suffix=".pth",
    accepts=lambda config: config is None or "model_type" not in config,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
