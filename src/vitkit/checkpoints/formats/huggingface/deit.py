"""Hugging Face transformers' distilled DeiT, the class with both heads (`DeiTForImageClassificationWithTeacher`)."""

from pathlib import Path
from typing import Any

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import lacking
from vitkit.checkpoints.formats.huggingface import ALIASES, MASK_TOKEN, MLP_ALIASES, vit
from vitkit.checkpoints.formats.huggingface import _folder as library
from vitkit.checkpoints.infer.vit_variants import infer_like
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.models import deit

PAIRS = {ours: theirs for ours, theirs in vit.PAIRS.items() if ours != "head.{leaf}"} | {
    "dist_token": "embeddings.distillation_token",
    "head.{leaf}": "cls_classifier.{leaf}",
    "head_dist.{leaf}": "distillation_classifier.{leaf}",
}
TABLE = Table(
    (
        *(Rule(ours, (theirs,)) for ours, theirs in PAIRS.items()),
        Rule("blocks.{i}.attn.qkv.{leaf}", vit.QKV, FUSED3),
    )
)
DIALECT = {**vit.DIALECT, "position_order": ("all",)}


def as_registers(shapes: dict[str, Any]) -> dict[str, Any]:
    """The shapes as those of a plain ViT, to which the distillation token is a register with a position."""
    return {("reg_token" if name == "dist_token" else name): shape for name, shape in shapes.items()}


def describe(found: Found) -> Description:
    """By config.json; a bare state dict by the library's defaults."""
    notes: list[str] = []
    stated, labels = library.stated_config(found, {}, notes)
    shapes = as_registers(TABLE.shapes(found.tensors))
    config = infer_like(deit.Config, shapes, found, dialect=DIALECT, stated=stated, own={}, notes=notes)
    processor = library.stated_processor(found, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """Everything our distilled DeiT is can be said."""
    return lacking(config, "transformers' DeiT", fixed={}, free=("activation", "norm_eps", "qkv_bias"))


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """A folder in the library's own layout."""
    config = checkpoint.model.config
    kind = "DeiTForImageClassificationWithTeacher" if config.num_classes else "DeiTModel"
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    library.write_folder(checkpoint, folder, tensors, {"architectures": [kind], "model_type": "deit"}, "deit.")


FORMAT = Format(
    name="deit_huggingface",
    targets=("huggingface",),
    family="deit",
    table=TABLE,
    anchors=(
        r"(?:deit\.)?embeddings\.patch_embeddings\.projection\.weight",
        r"(?:deit\.)?embeddings\.distillation_token",
    ),
    aliases=((r"^deit\.", ""), *ALIASES, *MLP_ALIASES),
    ignored=(MASK_TOKEN, (r"pooler\.dense\.(weight|bias)", "the pooler, which classification does not use")),
    accepts=lambda config: config is None or config.get("model_type") == "deit",
    describe=describe,
    obstacle=obstacle,
    write=write,
)
