"""timm's hybrid ViTs (`vit_*_r26_s32` and others), which use the same tensor names as vitkit."""

from pathlib import Path

from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.formats.timm import _config, vit
from vitkit.checkpoints.formats.timm._folder import read_processor
from vitkit.checkpoints.infer.bit import BACKBONE, VIT_FIELDS, infer_hybrid
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table
from vitkit.models import hybrid
from vitkit.models.vit import Config

TITLE = "timm's hybrid"
IMPLIED = {"weight_eps": 1e-8, "weight_eps_on": "variance", "group_norm_eps": 1e-5, "num_groups": 32, "stem_width": 64}
TABLE = Table((*vit.TABLE.rules, Rule(f"{BACKBONE}.{{name}}", (f"{BACKBONE}.{{name}}",))))
# timm's entry point for a ResNet of these depths; `model_args` set the rest.
ARCHITECTURES = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses timm's model and the original preprocessing."""
    notes: list[str] = []
    file_config, labels = ({}, None) if raw.config is None else _config.read_config(raw.config)
    config = infer_hybrid(
        TABLE.shapes(raw.tensors),
        defaults=vit.DEFAULTS | IMPLIED,
        file_config=file_config,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    processor = read_processor(raw, config) or preprocessing.google(config)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: hybrid.Config) -> str | None:
    """Returns an error message if timm's hybrid ViTs cannot represent the config, or None."""
    if config.depths not in ARCHITECTURES:
        return f"timm has no hybrid of depths {config.depths}; use to='vitkit'"
    plain = Config(**{name: getattr(config, name) for name in VIT_FIELDS})
    return vit.unsupported_reason(plain) or implied_mismatch(config, TITLE, IMPLIED)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes model.safetensors and config.json for `timm.create_model("local-dir:...", pretrained=True)`."""
    config = checkpoint.model.config
    config_json = _config.to_config(checkpoint)
    first = f"{BACKBONE}.stem.conv" if config.depths else f"{BACKBONE}.conv"
    config_json |= {
        "architecture": ARCHITECTURES[config.depths],
        "model_args": {**config_json["model_args"], "patch_size": list(config.map_patch)},
        "pretrained_cfg": {**config_json["pretrained_cfg"], "first_conv": first},
    }
    write_weights(TABLE.saved(checkpoint.model.state_dict(), config.num_heads), folder)
    write_json(config_json, folder / "config.json")


FORMAT = Format(
    name="hybrid_timm",
    targets=("timm",),
    family="hybrid",
    table=TABLE,
    anchors=(rf"{BACKBONE.replace('.', '[.]')}[.](stem[.])?conv[.]weight", *vit.FORMAT.anchors),
    accepts=vit.FORMAT.accepts,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
