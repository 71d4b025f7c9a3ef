"""Image towers of transformers' CLIP: `CLIPVisionModel`, `CLIPVisionModelWithProjection`, and that of `CLIPModel`."""

from pathlib import Path

from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Format
from vitkit.checkpoints.formats._unsupported import ImpliedMismatch, unsupported_field
from vitkit.checkpoints.formats.huggingface._towers import ALIASES, IGNORED, RULES, VECTOR, Tower
from vitkit.checkpoints.table import Rule, Table
from vitkit.data.processor import CLIP_MEAN, CLIP_STD, Processor
from vitkit.models.vit import Config
from vitkit.task import SINGLE_LABEL

# The projection to the joint space of images and texts is the head. It has no bias.
FIELDS = {"class_token": True, "head_bias": False}
TABLE = Table(
    (
        *RULES,
        Rule("cls_token", ("embeddings.class_embedding",), VECTOR),
        Rule("norm_pre.{leaf}", ("pre_layrnorm.{leaf}",)),  # the name is misspelled in transformers
        Rule("head.weight", ("visual_projection.weight",)),
    )
)
TOWER = Tower(
    title="CLIP",
    model_type="clip_vision_model",
    full_type="clip",
    table=TABLE,
    fields=FIELDS,
    implied={"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_attention_heads": 12},
    preprocess=lambda config: Processor.crop(config.image_size, 1.0, mean=CLIP_MEAN, std=CLIP_STD),
)


def unsupported_reason(config: Config) -> str | None:
    """Returns an error message if transformers' CLIPVisionModel cannot represent the config, otherwise None."""
    if config.num_classes and config.task != SINGLE_LABEL:
        reason = ImpliedMismatch(
            f"the head of transformers' CLIPVisionModel is a projection, not a head for {config.task.problem_type}; "
            "use to='vitkit', or lossy=True (--lossy) to leave the task out"
        )
        reason.implied = {"task": SINGLE_LABEL}
        return reason
    fixed = {"pre_norm": True, "patch_bias": False, "head_bias": config.head_bias and not config.num_classes}
    return unsupported_field(config, "transformers' CLIPVisionModel", fixed=fixed, free=("activation", "norm_eps"))


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a folder for `CLIPVisionModel`, or `CLIPVisionModelWithProjection` if the model has a head."""
    config = checkpoint.model.config
    saved = TABLE.saved(checkpoint.model.state_dict(), config.num_heads)
    architecture = "CLIPVisionModel"
    if config.num_classes:
        architecture = "CLIPVisionModelWithProjection"
        head = "visual_projection.weight"
        saved = {name if name == head else f"vision_model.{name}": tensor for name, tensor in saved.items()}
    TOWER.write(checkpoint, folder, saved, architecture)


FORMAT = Format(
    name="clip_huggingface",
    targets=("clip_huggingface", "huggingface"),
    family="vit",
    table=TABLE,
    anchors=(
        r"(?:vision_model\.)?embeddings\.class_embedding",
        r"(?:vision_model\.)?embeddings\.patch_embedding\.weight",
    ),
    aliases=ALIASES,
    ignored=IGNORED,
    accepts=TOWER.accepts,
    describe=TOWER.describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
