"""timm's BiT ResNets, `resnetv2_*_bit`, whose head is a 1x1 convolution."""

from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import meaning, preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.formats.google import bit as original
from vitkit.checkpoints.formats.timm import _config, vit
from vitkit.checkpoints.formats.timm._folder import read_processor
from vitkit.checkpoints.infer.bit import infer_bit
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table, Transform
from vitkit.data.processor import Processor
from vitkit.models import bit
from vitkit.models.bit import DEPTHS

IMPLIED = original.IMPLIED | {"weight_eps": 1e-8}
HEAD = Transform(lambda parts: parts[0][:, :, 0, 0], lambda ours, heads: [ours[:, :, None, None]])
TABLE = Table(
    (
        *(Rule(name, (name,)) for name in ("stem.conv.weight", "stages.{name}", "norm.{leaf}")),
        Rule("head.weight", ("head.fc.weight",), HEAD),
        Rule("head.bias", ("head.fc.bias",)),
    )
)
# timm's entry points by depths and stem width.
ENTRIES = {
    (DEPTHS[layers], 64 * factor): f"resnetv2_{layers}x{factor}_bit"
    for layers, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses timm's model and the original preprocessing."""
    notes: list[str] = []
    file_config, labels = ({}, None) if raw.config is None else _config.read_config(raw.config, _config.BITS)
    size = {"image_size": file_config["image_size"]} if "image_size" in file_config else {}
    config = infer_bit(
        TABLE.shapes(raw.tensors),
        fields=IMPLIED | size,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    any_config: Any = config
    processor = read_processor(raw, any_config) or preprocessing.google(any_config)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: bit.Config) -> str | None:
    """Returns an error message if timm has no BiT with these depths, stem width and epsilons, or None."""
    if (config.depths, config.stem_width) not in ENTRIES:
        return f"timm has no BiT of depths {config.depths} and stem {config.stem_width}; use to='vitkit'"
    return implied_mismatch(config, "timm's BiT", IMPLIED)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes model.safetensors and config.json for `timm.create_model("local-dir:...", pretrained=True)`."""
    config = checkpoint.model.config
    cfg = _config.pretrained_cfg(checkpoint.processor, config)
    cfg |= {"first_conv": "stem.conv", "classifier": "head.fc", "fixed_input_size": False}
    config_json = {
        "architecture": ENTRIES[config.depths, config.stem_width],
        "num_classes": config.num_classes,
        "num_features": config.width,
        "model_args": {"in_chans": config.channels},
        "label_names": list(checkpoint.labels),
        "pretrained_cfg": cfg,
    }
    vitkit_fields: dict[str, Any] = meaning.to_json(config.task)
    if Processor.from_timm(cfg) != checkpoint.processor:
        vitkit_fields["processor"] = configs.to_dict(checkpoint.processor)
    if vitkit_fields:
        config_json["vitkit"] = vitkit_fields
    write_weights(TABLE.saved(checkpoint.model.state_dict(), 1), folder)
    write_json(config_json, folder / "config.json")


FORMAT = Format(
    name="bit_timm",
    targets=("timm",),
    family="bit",
    table=TABLE,
    anchors=(r"stem\.conv\.weight", r"stages\.0\.blocks\.0\.conv3\.weight", r"norm\.weight"),
    accepts=vit.FORMAT.accepts,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
