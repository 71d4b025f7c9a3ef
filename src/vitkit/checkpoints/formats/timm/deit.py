"""The distilled DeiT's official files and timm's folders, which have the same names: those of ours."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking, meaning
from vitkit.checkpoints.formats.huggingface.deit import as_registers
from vitkit.checkpoints.formats.timm import _folder as library
from vitkit.checkpoints.formats.timm import vit
from vitkit.checkpoints.infer.vit_variants import infer_like
from vitkit.checkpoints.table import Rule, Table
from vitkit.models import deit

WHAT = "timm's distilled DeiT"
TABLE = Table((*vit.TABLE.rules, Rule("dist_token", ("dist_token",)), Rule("head_dist.{leaf}", ("head_dist.{leaf}",))))
DIALECT = {**vit.DIALECT, "position_order": ("all",), "position_resize": "bicubic"}


def describe(found: Found) -> Description:
    """By config.json where there is one, else as the official code builds and evaluates it."""
    notes: list[str] = []
    stated, labels = library.stated_config(found)
    # timm resizes with antialiasing, the official fine-tuning without.
    dialect = DIALECT if found.config is None else DIALECT | {"position_resize": "bicubic_antialias"}
    shapes = as_registers(TABLE.shapes(found.tensors))
    config = infer_like(deit.Config, shapes, found, dialect=dialect, stated=stated, own={}, notes=notes)
    processor = library.processor(found, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """Epsilons other than timm's own."""
    free = ("activation", "norm_eps", "qkv_bias")
    return lacking(config, WHAT, fixed={}, free=free) or meaning(config, WHAT, {"norm_eps": 1e-6})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder that timm opens; the weights in it are those of the official code."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    arguments = {"qkv_bias": config.qkv_bias, "act_layer": config.activation}
    library.write_folder(checkpoint, folder, tensors, "deit_base_distilled_patch16_224", arguments)


FORMAT = Format(
    name="deit_timm",
    targets=("timm",),
    family="deit",
    table=TABLE,
    anchors=(*vit.FORMAT.anchors, r"(.*\.)?dist_token"),
    accepts=vit.FORMAT.accepts,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
