"""Infers the config of a ResNet with batch norm from the shapes of its tensors."""

from collections.abc import Mapping
from typing import Any

from vitkit import config as configs
from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.infer.bit import convolution, resnet_depths
from vitkit.checkpoints.infer.vit import Fields, parse_overrides
from vitkit.checkpoints.tensors import Shape
from vitkit.models.resnet import Config

# Quotients of the channels of a bottleneck's output and of its 3x3 convolution, the usual one first.
REDUCTIONS = (4, 2, 1, 8)


def infer_resnet(
    shapes: Mapping[str, Shape],
    *,
    file_config: Fields,
    overrides: Fields,
    image_size: tuple[int, int] | None,
    notes: list[str],
) -> Config:
    """Infers blocks, depths, widths and the number of classes of a ResNet from tensor shapes.

    `file_config` are fields read from the file, which must agree with the tensors. `image_size` (height, width) is used
    if the file and the overrides have none. Raises CheckpointError if the tensors do not determine the config.
    """
    parsed = parse_overrides(Config, overrides)
    seen = _structure(shapes)
    for name, value in seen.items():
        if name in file_config and file_config[name] != value:
            raise CheckpointError(f"config.json: {name} is {str(file_config[name])[:80]}, but the tensors have {value}")
    # A shortcut that changes no widths is there for its stride.
    projected = "stages.0.blocks.0.downsample.conv.weight" in shapes and seen["stem_width"] == seen["widths"][0]
    values = {"image_size": image_size or (224, 224), "downsample_in_first_stage": projected} | seen | dict(file_config)
    if image_size is None and "image_size" not in {**file_config, **parsed}:
        notes.append("image_size is not in the file: using 224x224; any size works")
    try:
        return configs.from_dict(Config, values | parsed)
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}" if file_config else str(error)) from None


def _structure(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    stem = convolution(shapes, "stem.conv.weight")
    depths = resnet_depths(shapes, "stages")
    bottleneck = "stages.0.blocks.0.conv3.weight" in shapes
    last = "conv3" if bottleneck else "conv2"
    widths = tuple(convolution(shapes, f"stages.{stage}.blocks.0.{last}.weight")[0] for stage in range(len(depths)))
    inner = [convolution(shapes, f"stages.{stage}.blocks.0.conv1.weight")[0] for stage in range(len(depths))]
    second = convolution(shapes, "stages.0.blocks.0.conv2.weight")
    if second[1] != inner[0]:
        raise CheckpointError(
            f"the 3x3 convolution has {second[1]} input channels for a map of {inner[0]}: grouped convolutions "
            "(ResNeXt) are not supported; load the model with timm or torchvision"
        )
    fits = (ratio for ratio in REDUCTIONS if [width // ratio for width in widths] == inner)
    return {
        "stem_width": stem[0],
        "channels": stem[1],
        "depths": depths,
        "widths": widths,
        "block": "bottleneck" if bottleneck else "basic",
        "reduction": next(fits, 4) if bottleneck else 4,
        "num_classes": shapes.get("head.weight", (0,))[0],
    }
