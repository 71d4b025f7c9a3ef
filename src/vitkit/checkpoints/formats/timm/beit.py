"""Official files of BEiT and BEiT v2, and timm folders with the same tensor names."""

from dataclasses import replace
from pathlib import Path

import torch

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.formats.huggingface.beit import TABLES, family_fields
from vitkit.checkpoints.formats.timm import _folder, vit
from vitkit.checkpoints.infer.vit_variants import infer_variant, relative_image_size
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.data.processor import HALF, Processor
from vitkit.models import beit

TITLE = "timm's BEiT"
OWN = ("relative_resize", "layer_scale")
SAME = (
    *("patch_embed.proj.{leaf}", "cls_token", "pos_embed", "norm.{leaf}", "fc_norm.{leaf}", "head.{leaf}"),
    *(f"blocks.{{i}}.{part}.{{leaf}}" for part in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")),
    *(f"blocks.{{i}}.attn.{part}" for part in ("qkv.weight", "q_bias", "v_bias", "relative_position_bias_table")),
    "rel_pos_bias.relative_position_bias_table",
)
TABLE = Table(
    (
        *(Rule(name, (name,)) for name in SAME),
        *(Rule(f"blocks.{{i}}.ls{number}.gamma", (f"blocks.{{i}}.gamma_{number}",)) for number in (1, 2)),
    )
)


def arrange(tensors: Tensors) -> Tensors:
    """Adds an untrained LayerNorm after mean pooling to SimMIM's pre-training files, as SimMIM's fine-tuning does.

    SimMIM's pre-training files have a mask token and no final norm.
    """
    names, token = tensors.infos.keys(), tensors.infos.get("mask_token")
    if token is None or "norm.weight" in names or "fc_norm.weight" in names:
        return tensors
    info = Info((token.shape[-1],), token.dtype)
    fresh = {"fc_norm.weight": torch.ones(info.shape), "fc_norm.bias": torch.zeros(info.shape)}
    infos = {**tensors.infos, **dict.fromkeys(fresh, info)}
    return Tensors(infos, lambda name: fresh[name] if name in fresh else tensors.read(name))


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the settings of the official code."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw, OWN)
    shapes = TABLE.shapes(raw.tensors)
    file_config |= relative_image_size(shapes, TABLES, file_config, raw)
    extra = family_fields(shapes)
    extra["relative_resize"] = "geometric" if raw.config is None else "geometric_linear"
    if "blocks.0.ls1.gamma" in shapes:
        # Initial value of LayerScale: 0.1 in the base size, 1e-5 in the large size.
        extra["layer_scale"] = file_config.pop("layer_scale", None) or (0.1 if shapes["cls_token"][-1] < 1024 else 1e-5)
    extra["position_resize"] = file_config.get(
        "position_resize", "bicubic" if raw.config is None else "bicubic_antialias"
    )
    file_config.pop("pool", None)
    defaults = {**vit.DEFAULTS, "position_order": ("class+patches",)}
    config = infer_variant(
        beit.Config, shapes, raw, defaults=defaults, file_config=file_config, extra=extra, notes=notes
    )
    processor = _folder.processor(raw, config, 7 / 8 if max(config.image_size) < 384 else 1.0, notes)
    if raw.config is None and "v2" not in raw.file_name.lower():
        # BEiT was trained on pixel values in -1..1, BEiT v2 on ImageNet statistics.
        processor = _halved(processor)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def _halved(processor: Processor) -> Processor:
    return replace(processor, mean=HALF, std=HALF) if processor.channels == 3 else processor


def unsupported_reason(config: beit.Config) -> str | None:
    """Returns an error message if timm's BEiT cannot represent the config, otherwise None."""
    free = ("activation", "norm_eps", "relative", "position", "layer_scale", "pool", "relative_resize")
    return unsupported_field(config, TITLE, fixed={}, free=free) or implied_mismatch(config, TITLE, {"norm_eps": 1e-6})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a folder for timm with the tensor names of the official code."""
    config = checkpoint.model.config
    arguments = {
        "qkv_bias": True,
        "init_values": config.layer_scale or 0.0,
        "use_abs_pos_emb": config.position == "learned",
        "use_rel_pos_bias": config.relative == "blocks",
        "use_shared_rel_pos_bias": config.relative == "shared",
    }
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    _folder.write_folder(checkpoint, folder, tensors, "beit_base_patch16_224", arguments, OWN)


FORMAT = Format(
    name="beit_timm",
    targets=("timm",),
    family="beit",
    table=TABLE,
    anchors=(*vit.FORMAT.anchors, r"(.*\.)?blocks\.0\.attn\.q_bias"),
    ignored=(
        (r".*relative_position_index", "index tables, which vitkit computes"),
        (r"mask_token", "the mask token of pre-training"),
        (r"lm_head\.(weight|bias)", "the head of masked image modeling"),
        (r"decoder\.0\.(weight|bias)", "SimMIM's decoder"),
        (r"cls_pt_layers\..*", "the blocks that BEiT v2 uses to pre-train the class token"),
    ),
    accepts=vit.FORMAT.accepts,
    arrange=arrange,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
