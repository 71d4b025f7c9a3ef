"""BEiT's and BEiT v2's official files, pre-trained and fine-tuned, and timm's folders, which have the same names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.formats.huggingface.beit import TABLES, own_fields
from vitkit.checkpoints.formats.timm import _folder as library
from vitkit.checkpoints.formats.timm import vit
from vitkit.checkpoints.infer.vit_variants import infer_like, relative_image_size
from vitkit.checkpoints.table import Rule, Table
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.data.processor import HALF, Processor
from vitkit.models import beit

WHAT = "timm's BEiT"
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
    """SimMIM's pre-training had no final norm: as its own fine-tuning does, one is put behind the mean of the patches.

    Told by the mask token of a file without any such norm.
    """
    names, token = tensors.infos.keys(), tensors.infos.get("mask_token")
    if token is None or "norm.weight" in names or "fc_norm.weight" in names:
        return tensors
    info = Info((token.shape[-1],), token.dtype)
    fresh = {"fc_norm.weight": torch.ones(info.shape), "fc_norm.bias": torch.zeros(info.shape)}
    infos = {**tensors.infos, **dict.fromkeys(fresh, info)}
    return Tensors(infos, lambda name: fresh[name] if name in fresh else tensors.read(name))


def describe(found: Found) -> Description:
    """By config.json where there is one, else as the official code builds and evaluates it."""
    notes: list[str] = []
    stated, labels = library.stated_config(found, OWN)
    shapes = TABLE.shapes(found.tensors)
    stated |= relative_image_size(shapes, TABLES, stated, found)
    own = own_fields(shapes)
    own["relative_resize"] = "geometric" if found.config is None else "geometric_linear"
    if "blocks.0.ls1.gamma" in shapes:
        # What it started from: 0.1 in the base size, 1e-5 in the large one.
        own["layer_scale"] = stated.pop("layer_scale", None) or (0.1 if shapes["cls_token"][-1] < 1024 else 1e-5)
    own["position_resize"] = "bicubic" if found.config is None else "bicubic_antialias"
    stated.pop("pool", None)
    dialect = {**vit.DIALECT, "position_order": ("class+patches",)}
    config = infer_like(beit.Config, shapes, found, dialect=dialect, stated=stated, own=own, notes=notes)
    processor = library.processor(found, config, 7 / 8 if max(config.image_size) < 384 else 1.0, notes)
    if found.config is None and "v2" not in found.file_name.lower():
        # Version 1 was trained on -1..1, version 2 on ImageNet's statistics.
        processor = _halved(processor)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def _halved(processor: Processor) -> Processor:
    return replace(processor, mean=HALF, std=HALF) if processor.channels == 3 else processor


def obstacle(config: Any) -> str | None:
    """Epsilons other than timm's own."""
    free = ("activation", "norm_eps", "relative", "position", "layer_scale", "pool", "relative_resize")
    return lacking(config, WHAT, fixed={}, free=free) or meaning(config, WHAT, {"norm_eps": 1e-6})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder that timm opens; the weights in it are those of the official code."""
    config = checkpoint.model.config
    arguments = {
        "qkv_bias": True,
        "init_values": config.layer_scale or 0.0,
        "use_abs_pos_emb": config.position == "learned",
        "use_rel_pos_bias": config.relative == "blocks",
        "use_shared_rel_pos_bias": config.relative == "shared",
    }
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    library.write_folder(checkpoint, folder, tensors, "beit_base_patch16_224", arguments, OWN)


FORMAT = Format(
    name="beit_timm",
    targets=("timm",),
    family="beit",
    table=TABLE,
    anchors=(*vit.FORMAT.anchors, r"(.*\.)?blocks\.0\.attn\.q_bias"),
    ignored=(
        (r".*relative_position_index", "index tables, which are computed"),
        (r"mask_token", "the mask token of pre-training"),
        (r"lm_head\.(weight|bias)", "the head of masked image modelling"),
        (r"decoder\.0\.(weight|bias)", "SimMIM's decoder"),
        (r"cls_pt_layers\..*", "the blocks of BEiT v2's pre-training of the class token"),
    ),
    accepts=vit.FORMAT.accepts,
    arrange=arrange,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
