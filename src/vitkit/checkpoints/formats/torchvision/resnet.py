"""State dicts of torchvision's `ResNet`.

timm's have the same names. A file without a config.json counts as torchvision's."""

import re
from pathlib import Path

import torch

from vitkit import atomic
from vitkit.checkpoints import preprocessing
from vitkit.checkpoints.checkpoint import Checkpoint
from vitkit.checkpoints.formats import Description, Format, RawCheckpoint
from vitkit.checkpoints.formats._unsupported import implied_mismatch
from vitkit.checkpoints.infer.resnet import infer_resnet
from vitkit.checkpoints.table import Rule, Table
from vitkit.models import resnet

# vitkit's stage 0 is their layer1.
BLOCK, THEIR_BLOCK = "stages.{i}.blocks.{j}", "layer{i+1}.{j}"
TABLE = Table(
    (
        Rule("stem.conv.weight", ("conv1.weight",)),
        Rule("stem.norm.{norm}", ("bn1.{norm}",)),
        *(Rule(f"{BLOCK}.conv{part}.weight", (f"{THEIR_BLOCK}.conv{part}.weight",)) for part in (1, 2, 3)),
        *(Rule(f"{BLOCK}.norm{part}.{{norm}}", (f"{THEIR_BLOCK}.bn{part}.{{norm}}",)) for part in (1, 2, 3)),
        Rule(f"{BLOCK}.downsample.conv.weight", (f"{THEIR_BLOCK}.downsample.0.weight",)),
        Rule(f"{BLOCK}.downsample.norm.{{norm}}", (f"{THEIR_BLOCK}.downsample.1.{{norm}}",)),
        Rule("head.{leaf}", ("fc.{leaf}",)),
    )
)
# `conv1.weight` alone is the end of other names, so that it does not identify the prefix of a wrapper.
ANCHORS = (r"layer1\.0\.conv1\.weight", r"conv1\.weight", r"bn1\.running_mean")
TITLE = "torchvision's ResNet"
IMPLIED = {
    "stem_width": 64,
    "activation": "relu",
    "inner_activation": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
# Published files by name: pattern, project, interpolation and crop fraction. The first match counts.
FILES: tuple[tuple[str, str, str, float], ...] = (
    (r"11ad3fa6|cd907fc2|f82ba261|9ba9bcbe|d733dc28", "torchvision's second weights", "bilinear", 0.965),
    (r"resnet\d+_(a1|a1h|a1h2|a2|a3|b1k|b2k|c1|c2|d)[_-]", "timm's weights of ResNet strikes back", "bicubic", 0.95),
    (r"resnet\d+_(ram|racm|ra|am)-", "timm's weights with augmentation", "bicubic", 7 / 8),
    (r"dino", "DINO", "bicubic", 7 / 8),
    (r"", "torchvision's first weights", "bilinear", 7 / 8),
)


def describe(raw: RawCheckpoint) -> Description:
    """Infers the config from tensor shapes, and the preprocessing from the file name of the published weights."""
    notes: list[str] = []
    config = infer_resnet(
        TABLE.shapes(raw.tensors), file_config={}, overrides=raw.overrides, image_size=raw.image_size, notes=notes
    )
    _, project, interpolation, fraction = next(each for each in FILES if re.search(each[0], raw.file_name.lower()))
    notes.append(f"no preprocessing in the file: using that of {project}")
    processor = preprocessing.resnet(config, fraction, interpolation=interpolation)
    return Description(config=config, processor=processor, notes=tuple(notes))


def unsupported_reason(config: resnet.Config) -> str | None:
    """Returns an error message if torchvision's ResNet cannot represent the config, or None."""
    expansion = 4 if config.block == "bottleneck" else 1
    widths = tuple(width * expansion for width in resnet.BASIC_WIDTHS)
    if config.widths != widths:
        return f"{TITLE} of {config.block} blocks has widths {widths}, not {config.widths}; use to='huggingface'"
    if config.channels != 3:
        return f"{TITLE} has 3 channels, not {config.channels}; use to='huggingface'"
    return implied_mismatch(config, TITLE, IMPLIED)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a state dict with `torch.save`."""
    with atomic.open_deferred(path) as file:
        torch.save(TABLE.saved(checkpoint.model.state_dict(), 1), file)


FORMAT = Format(
    name="resnet_torchvision",
    targets=("torchvision",),
    family="resnet",
    table=TABLE,
    anchors=ANCHORS,
    suffix=".pth",
    accepts=lambda config: config is None or "model_type" not in config,
    describe=describe,
    unsupported_reason=unsupported_reason,
    write=write,
)
