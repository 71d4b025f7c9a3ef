"""State dicts of torchvision's `VisionTransformer`, with the tensor names of old or new versions."""

from pathlib import Path

import torch

from vitkit import atomic
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import Rule, Table
from vitkit.models.vit import Config

TITLE = "torchvision's VisionTransformer"
IMPLIED = {"activation": "gelu", "norm_eps": 1e-6}
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


def describe(raw: RawCheckpoint) -> Description:
    """Infers the config from tensor shapes. num_heads is looked up in a table of embedding widths."""
    notes: list[str] = []
    config = infer_vit(
        TABLE.shapes(raw.tensors),
        defaults={
            "activation": "gelu",
            "norm_eps": 1e-6,
            "position_resize": "bicubic",
            "position_order": ("class+patches",),
        },
        file_config={"class_token": True, "position": "learned"},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    return Description(config=config, processor=preprocessing.torchvision(config), notes=tuple(notes))


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message, or None if the model is a ViT of the ViT paper for square RGB images."""
    if config.position_tokens == "patches":
        return f"{TITLE} has a position for the class token, but this model has none; use to='vitkit'"
    if config.patch_size[0] != config.patch_size[1] or config.image_size[0] != config.image_size[1]:
        return f"{TITLE} needs square images, not {config.image_size}; use to='huggingface'"
    if config.channels != 3:
        return f"{TITLE} has 3 channels, not {config.channels}; use to='huggingface'"
    reason = unsupported_field(config, TITLE, fixed={}, free=("position_tokens", "pre_logits", *IMPLIED))
    return reason or implied_mismatch(config, TITLE, IMPLIED)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a state dict with `torch.save`."""
    with atomic.open_deferred(path) as file:
        torch.save(TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads), file)


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
    unsupported_reason=unsupported_reason,
    write=write,
)
