"""timm's BiT ResNets, `resnetv2_*_bit`: its names are ours but for the head, a 1x1 convolution there."""

from pathlib import Path
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.containers.safetensors import write_weights
from vitkit.checkpoints.formats import Description, Format, Found
from vitkit.checkpoints.formats._unsupported import meaning
from vitkit.checkpoints.formats.google import bit
from vitkit.checkpoints.formats.timm import _config, vit
from vitkit.checkpoints.formats.timm._folder import stated_processor
from vitkit.checkpoints.infer.resnet import infer_resnet
from vitkit.checkpoints.json_files import write_json
from vitkit.checkpoints.table import Rule, Table, Transform
from vitkit.data.processor import Processor
from vitkit.models.resnet import DEPTHS

MEANS = bit.MEANS | {"weight_eps": 1e-8}
HEAD = Transform(lambda parts: parts[0][:, :, 0, 0], lambda ours, heads: [ours[:, :, None, None]])
TABLE = Table(
    (
        *(Rule(name, (name,)) for name in ("stem.conv.weight", "stages.{name}", "norm.{leaf}")),
        Rule("head.weight", ("head.fc.weight",), HEAD),
        Rule("head.bias", ("head.fc.bias",)),
    )
)
# What timm has an entry for: depths and width factor.
ENTRIES = {
    (DEPTHS[layers], 64 * factor): f"resnetv2_{layers}x{factor}_bit"
    for layers, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
}


def describe(found: Found) -> Description:
    """By config.json where there is one; else as timm builds it, preprocessed as the original."""
    notes: list[str] = []
    stated, labels = ({}, None) if found.config is None else _config.read_config(found.config, _config.RESNETS)
    size = {"image_size": stated["image_size"]} if "image_size" in stated else {}
    config = infer_resnet(
        TABLE.shapes(found.tensors),
        fields=MEANS | size,
        overrides=found.overrides,
        image_size=found.image_size,
        notes=notes,
    )
    duck: Any = config
    processor = stated_processor(found, duck) or preprocessing.google(duck)
    return Description(config=config, processor=processor, labels=labels, notes=tuple(notes))


def obstacle(config: Any) -> str | None:
    """Sizes that timm has no entry for, and epsilons other than its own."""
    if (config.depths, config.stem_width) not in ENTRIES:
        return f"timm has no BiT of depths {config.depths} and stem {config.stem_width}; to='vitkit' can say it"
    return meaning(config, "timm's BiT", MEANS)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """model.safetensors and a config.json that `timm.create_model("local-dir:...", pretrained=True)` opens."""
    config = checkpoint.model.config
    cfg = _config.pretrained_cfg(checkpoint.processor, config)
    cfg |= {"first_conv": "stem.conv", "classifier": "head.fc", "fixed_input_size": False}
    stated = {
        "architecture": ENTRIES[config.depths, config.stem_width],
        "num_classes": config.num_classes,
        "num_features": config.width,
        "model_args": {"in_chans": config.channels},
        "label_names": list(checkpoint.labels),
        "pretrained_cfg": cfg,
    }
    if Processor.from_timm(cfg) != checkpoint.processor:
        stated["vitkit"] = {"processor": configs.to_dict(checkpoint.processor)}
    write_weights(TABLE.saved(checkpoint.model.state_dict(), 1), folder)
    write_json(stated, folder / "config.json")


FORMAT = Format(
    name="bit_timm",
    targets=("timm",),
    family="resnet",
    table=TABLE,
    anchors=(r"stem\.conv\.weight", r"stages\.0\.blocks\.0\.conv3\.weight", r"norm\.weight"),
    accepts=vit.FORMAT.accepts,
    describe=describe,
    obstacle=obstacle,
    write=write,
)
