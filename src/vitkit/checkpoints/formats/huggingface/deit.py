"""Hugging Face transformers' `DeiTForImageClassificationWithTeacher`, a DeiT with two heads."""

from pathlib import Path

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import unsupported_field
from vitkit.checkpoints.formats.huggingface import ALIASES, MASK_TOKEN, MLP_ALIASES, _folder, vit
from vitkit.checkpoints.infer.vit_variants import infer_variant
from vitkit.checkpoints.table import FUSED3, Rule, Table
from vitkit.checkpoints.tensors import Shape
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
DEFAULTS = {**vit.DEFAULTS, "position_order": ("all",)}


def as_registers(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Renames the distillation token to a register token, because `infer_vit` has no field for distillation tokens."""
    return {("reg_token" if name == "dist_token" else name): shape for name, shape in shapes.items()}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses the defaults of transformers."""
    notes: list[str] = []
    file_config, labels = _folder.read_file_config(raw, {}, notes)
    shapes = as_registers(TABLE.shapes(raw.tensors))
    config = infer_variant(deit.Config, shapes, raw, defaults=DEFAULTS, file_config=file_config, extra={}, notes=notes)
    processor = _folder.read_processor(raw, config, 7 / 8, notes)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: deit.Config) -> str | None:
    """Returns an error message if transformers' DeiT cannot represent the config, otherwise None."""
    return unsupported_field(config, "transformers' DeiT", fixed={}, free=("activation", "norm_eps", "qkv_bias"))


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint folder that transformers can load."""
    config = checkpoint.model.config
    kind = "DeiTForImageClassificationWithTeacher" if config.num_classes else "DeiTModel"
    tensors = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    _folder.write_folder(checkpoint, folder, tensors, {"architectures": [kind], "model_type": "deit"}, "deit.")


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
    unsupported_reason=unsupported_reason,
    write=write,
)
