"""Official files of the distilled DeiT, and timm folders. Both use the same tensor names as vitkit."""

from pathlib import Path

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch, unsupported_field
from vitkit.checkpoints.formats.huggingface.deit import as_registers
from vitkit.checkpoints.formats.timm import _folder, vit
from vitkit.checkpoints.infer.vit_variants import infer_variant
from vitkit.checkpoints.table import Rule, Table
from vitkit.models import deit

TITLE = "timm's distilled DeiT"
TABLE = Table((*vit.TABLE.rules, Rule("dist_token", ("dist_token",)), Rule("head_dist.{leaf}", ("head_dist.{leaf}",))))
DEFAULTS = {**vit.DEFAULTS, "position_order": ("all",), "position_resize": "bicubic"}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the settings of the official code."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw)
    # timm resizes positions with antialiasing, the official fine-tuning code without.
    defaults = DEFAULTS if raw.config is None else DEFAULTS | {"position_resize": "bicubic_antialias"}
    shapes = as_registers(TABLE.shapes(raw.tensors))
    config = infer_variant(deit.Config, shapes, raw, defaults=defaults, file_config=file_config, extra={}, notes=notes)
    processor = _folder.processor(raw, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: deit.Config) -> str | None:
    """Returns an error message if timm's DeiT cannot represent the config, otherwise None."""
    free = ("activation", "norm_eps", "qkv_bias")
    return unsupported_field(config, TITLE, fixed={}, free=free) or implied_mismatch(config, TITLE, {"norm_eps": 1e-6})


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a folder for timm with the tensor names of the official code."""
    config = checkpoint.model.config
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    arguments = {"qkv_bias": config.qkv_bias, "act_layer": config.activation}
    _folder.write_folder(checkpoint, folder, tensors, "deit_base_distilled_patch16_224", arguments)


FORMAT = Format(
    name="deit_timm",
    targets=("timm",),
    family="deit",
    table=TABLE,
    anchors=(*vit.FORMAT.anchors, r"(.*\.)?dist_token"),
    accepts=vit.FORMAT.accepts,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
