"""Hugging Face transformers' `DeiTForImageClassification`: both special tokens of a distilled DeiT, but one head.

The distillation token is read by no head, so to us the model is a plain ViT with one register that has a position.
"""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking
from vitkit.checkpoints.formats.huggingface import _folder as library
from vitkit.checkpoints.formats.huggingface import deit, vit
from vitkit.checkpoints.infer.vit import infer_vit
from vitkit.checkpoints.table import FUSED3, Rule, Table

TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in vit.PAIRS.items()),
        Rule("reg_token", ("embeddings.distillation_token",)),
        Rule("blocks.{i}.attn.qkv.{leaf}", vit.QKV, FUSED3),
    )
)


def describe(found: Found) -> Description:
    """By config.json; a bare state dict by the library's defaults."""
    notes = ["one head, on the class token: the distillation token is a register here"]
    stated, labels = library.stated_config(found, {}, notes)
    config = infer_vit(
        TABLE.shapes(found.tensors),
        dialect=deit.DIALECT,
        stated={"position": "learned", **stated},
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    processor = library.stated_processor(found, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """Anything but a classifier with a class token and one register, each with its position."""
    if (config.num_registers, config.position_tokens, config.class_token) != (1, "all", True) or not config.num_classes:
        return "transformers' DeiTForImageClassification has a head and one register with a position; to='vitkit' can"
    free = ("num_registers", "position_tokens", "activation", "norm_eps", "qkv_bias")
    return lacking(config, "transformers' DeiT", fixed={}, free=free)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder in the library's own layout."""
    tensors = TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads)
    stated = {"architectures": ["DeiTForImageClassification"], "model_type": "deit"}
    library.write_folder(checkpoint, folder, tensors, stated, "deit.")


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
    obstacle=obstacle,
    write=write,
)
