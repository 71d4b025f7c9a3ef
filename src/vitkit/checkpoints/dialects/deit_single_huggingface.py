"""Hugging Face transformers' `DeiTForImageClassification`: both special tokens of a distilled DeiT, but one head.

The distillation token is read by no head, so to us the model is a plain ViT with one register that has a position.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.checkpoints import huggingface_folder as library
from vitkit.checkpoints.dialects import Description, Format, Found, deit_huggingface, huggingface
from vitkit.checkpoints.expressible import lacking
from vitkit.checkpoints.inference import infer_vit
from vitkit.checkpoints.table import FUSED3, Rule, Table

if TYPE_CHECKING:
    from vitkit.checkpoints import Checkpoint

TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in huggingface.PAIRS.items()),
        Rule("reg_token", ("embeddings.distillation_token",)),
        Rule("blocks.{i}.attn.qkv.{leaf}", huggingface.QKV, FUSED3),
    )
)


def describe(found: Found) -> Description:
    """By config.json; a bare state dict by the library's defaults."""
    notes = ["one head, on the class token: the distillation token is a register here"]
    stated, labels = library.stated_config(found, {}, notes)
    config = infer_vit(
        TABLE.shapes(found.tensors),
        dialect=deit_huggingface.DIALECT,
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


def write(checkpoint: "Checkpoint", folder: Path) -> None:
    """A folder in the library's own layout."""
    tensors = TABLE.saved(checkpoint.model.state_dict(), checkpoint.model.config.num_heads)
    stated = {"architectures": ["DeiTForImageClassification"], "model_type": "deit"}
    library.write_folder(checkpoint, folder, tensors, stated, "deit.")


FORMAT = Format(
    name="deit_single_huggingface",
    targets=("huggingface", "deit_single_huggingface"),
    family="vit",
    table=TABLE,
    anchors=(*deit_huggingface.FORMAT.anchors, r"classifier\.weight"),
    aliases=deit_huggingface.FORMAT.aliases,
    ignored=deit_huggingface.FORMAT.ignored,
    accepts=deit_huggingface.FORMAT.accepts,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
