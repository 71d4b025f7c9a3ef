"""Hugging Face transformers' `DeiTForImageClassification`, a distilled DeiT with a single head.

No head reads the distillation token, so vitkit loads the model as a plain ViT with one register.
"""

from pathlib import Path

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface import _folder, deit, vit
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.models.vit import Config

TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in vit.PAIRS.items()),
        Rule("reg_token", ("embeddings.distillation_token",)),
        Rule("blocks.{i}.attn.qkv.{leaf}", vit.QKV, FUSED3),
    )
)


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes = ["single head on the class token: the distillation token is loaded as a register token"]
    file_config, labels = _folder.read_file_config(raw, {}, notes)
    config = infer_vit(
        TABLE.shapes(raw.tensors),
        defaults=deit.DEFAULTS,
        file_config={"position": "learned", **file_config},
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    processor = _folder.read_processor(raw, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if `DeiTForImageClassification` cannot represent the config, otherwise None."""
    if (config.num_registers, config.position_tokens, config.class_token) != (1, "all", True) or not config.num_classes:
        return (
            "transformers' DeiTForImageClassification needs a head, a class token and one register token with a "
            "position embedding; use to='vitkit'"
        )
    free = ("num_registers", "position_tokens", "activation", "norm_eps", "qkv_bias")
    return unsupported_field(config, "transformers' DeiT", fixed={}, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint folder that transformers can load."""
    tensors = TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads)
    config_json = {"architectures": ["DeiTForImageClassification"], "model_type": "deit"}
    _folder.write_folder(checkpoint, folder, tensors, config_json, "deit.")


FORMAT = Format(
    name="deit_single_huggingface",
    targets=("huggingface", "deit_single_huggingface"),
    family="vit",
    table=TABLE,
    anchors=(*deit.FORMAT.anchors, r"classifier\.weight"),
    aliases=deit.FORMAT.aliases,
    ignored=deit.FORMAT.ignored,
    accepts=deit.FORMAT.accepts,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
