"""timm's ResNets with batch norm: `resnet18` to `resnet152`, `wide_resnet50_2` and others of the same layout."""

from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import meaning, preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint, CheckpointError
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.formats.timm import _config, vit
from vitkit.checkpoints.formats.timm._folder import read_processor
from vitkit.checkpoints.formats.torchvision.resnet import ANCHORS, TABLE
from vitkit.checkpoints.infer.resnet import infer_resnet
from vitkit.checkpoints.json_files import write_json
from vitkit.data.processor import Processor
from vitkit.layers.activations import CORE
from vitkit.models import resnet

TITLE = "timm's ResNet"
IMPLIED = {"stem_width": 64, "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
# timm's entry points by type of block, depths and reduction; others get the last one of their block, with arguments.
ENTRIES = {
    ("basic", (2, 2, 2, 2), 4): "resnet18",
    ("basic", (3, 4, 6, 3), 4): "resnet34",
    ("bottleneck", (3, 4, 6, 3), 4): "resnet50",
    ("bottleneck", (3, 4, 23, 3), 4): "resnet101",
    ("bottleneck", (3, 8, 36, 3), 4): "resnet152",
}
OTHERS = {"basic": "resnet18", "bottleneck": "resnet50"}


def describe(raw: RawCheckpoint) -> Description:
    """Reads the config, processor and labels. Without config.json, uses timm's default preprocessing of ResNets."""
    notes: list[str] = []
    file_config: dict[str, Any] = {}
    labels = None
    if raw.config is not None:
        values, labels = _config.read_config(raw.config, _config.RESNETS)
        if values.get("pool", "gap") != "gap":
            raise CheckpointError(
                f"config.json: global_pool must be 'avg'; vitkit does not support other poolings of {TITLE}"
            )
        file_config = {name: values[name] for name in ("image_size", "num_classes") if name in values}
        activation = values.get("activation", "relu")
        file_config |= {"activation": activation, "inner_activation": activation}
    config = infer_resnet(
        TABLE.shapes(raw.tensors),
        file_config=file_config,
        overrides=raw.overrides,
        image_size=raw.image_size,
        notes=notes,
    )
    processor = read_processor(raw, config) or preprocessing.resnet(config)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def unsupported_reason(config: resnet.Config) -> str | None:
    """Returns an error message if timm's ResNet cannot represent the config, or None."""
    expansion = 4 if config.block == "bottleneck" else 1
    if len(config.depths) != 4 or any(width % expansion for width in config.widths):
        return (
            f"{TITLE} of {config.block} blocks has 4 stages whose widths are multiples of {expansion}, not widths "
            f"{config.widths}; use to='huggingface'"
        )
    if config.activation != config.inner_activation or config.reduction not in (1, 2, 4, 8):
        return (
            f"{TITLE} has one activation and a reduction of 1, 2, 4 or 8, not activation={config.activation!r}, "
            f"inner_activation={config.inner_activation!r}, reduction={config.reduction}; use to='vitkit'"
        )
    return implied_mismatch(config, TITLE, IMPLIED)


def _model_args(config: resnet.Config) -> dict[str, Any]:
    """Returns the model arguments that differ from the defaults of timm's entry point."""
    arguments: dict[str, Any] = {"in_chans": config.channels}
    if (config.block, config.depths, 4) not in ENTRIES:
        arguments["layers"] = list(config.depths)
    planes = tuple(width // (4 if config.block == "bottleneck" else 1) for width in config.widths)
    if planes != resnet.BASIC_WIDTHS:
        arguments["channels"] = list(planes)
    if config.block == "bottleneck" and config.reduction != 4:
        arguments["base_width"] = 256 // config.reduction
    if config.activation != "relu":
        arguments["act_layer"] = CORE[config.activation].timm[0]
    return arguments


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes model.safetensors and config.json for `timm.create_model("local-dir:...", pretrained=True)`."""
    config = checkpoint.model.config
    cfg = _config.pretrained_cfg(checkpoint.processor, config)
    cfg |= {"first_conv": "conv1", "classifier": "fc", "fixed_input_size": False, "pool_size": list(config.grid)}
    config_json: dict[str, Any] = {
        "architecture": ENTRIES.get((config.block, config.depths, 4), OTHERS[config.block]),
        "num_classes": config.num_classes,
        "num_features": config.width,
        "global_pool": "avg",
        "model_args": _model_args(config),
        "label_names": list(checkpoint.labels),
        "pretrained_cfg": cfg,
    }
    vitkit_fields: dict[str, Any] = meaning.to_json(config.task)
    if Processor.from_timm(cfg) != checkpoint.processor:
        vitkit_fields["processor"] = configs.to_dict(checkpoint.processor)
    if config.image_size != checkpoint.processor.size:
        vitkit_fields["image_size"] = list(config.image_size)
    if vitkit_fields:
        config_json["vitkit"] = vitkit_fields
    write_weights(TABLE.saved(checkpoint.model.state_dict(), 1), folder)
    write_json(config_json, folder / "config.json")


FORMAT = Format(
    name="resnet_timm",
    targets=("timm",),
    family="resnet",
    table=TABLE,
    anchors=ANCHORS,
    accepts=vit.FORMAT.accepts,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
