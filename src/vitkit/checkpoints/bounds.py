"""Limits on the values in config files, checked before a model is built or memory is allocated."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.tensors import Tensors
from vitkit.data.processor import Processor

# Fields that are a side of some tensor.
SIDES = ("width", "mlp_width", "num_registers", "pre_logits", "channels", "stem_width", "widths", "num_classes")
# Fields that count blocks: each block has at least one tensor.
COUNTS = ("depth", "depths")
MAX_INTEGER = 10_000_000
# Limits for a config without weights.
MAX_DEPTH = 1_000
MAX_SIDE = 100_000
# A float32 image of this size takes 200 MB.
MAX_PIXELS = 4096 * 4096
MIN_STD = 1e-6
MAX_VALUE = 1e6


def check_config(config: Any, tensors: Tensors | None) -> None:
    """Raises CheckpointError if a size in a config is larger than the tensors in the weights file allow.

    Without a weights file (`tensors` is None), the limits are those that no published model reaches.
    """
    largest, count, why = MAX_SIDE, MAX_DEPTH, "larger than in any published model"
    if tensors is not None:
        largest = max((side for info in tensors.infos.values() for side in info.shape), default=0)
        count, why = len(tensors.infos), "too large for the tensors in the file"
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        numbers = list(_integers(value))
        limit, what = MAX_INTEGER, f"more than {MAX_INTEGER:,}"
        if field.name in SIDES:
            limit, what = largest, why
        if field.name in COUNTS:
            limit, what = count, why
            numbers = [sum(numbers)]
        if max(numbers, default=0) > limit:
            raise CheckpointError(f"config.json: {field.name} is {str(value)[:80]}, which is {what}")


def check_requested(image_size: tuple[int, int] | None) -> None:
    """Raises ValueError if a requested image size (height, width) is not positive or has too many pixels."""
    if image_size is None:
        return
    if min(image_size) < 1 or math.prod(image_size) > MAX_PIXELS:
        shown = image_size[0] if image_size[0] == image_size[1] else f"{image_size[0]} x {image_size[1]}"
        side = math.isqrt(MAX_PIXELS)
        raise ValueError(
            f"image_size is {shown}; each side must be at least 1 pixel, and the area at most {side} x {side} pixels"
        )


def check_sizes(image_size: tuple[int, int], processor: Processor) -> None:
    """Raises CheckpointError if the image size has too many pixels or the mean, std or rescale factor is invalid."""
    to = processor.resize_to
    sizes = {
        "image_size": image_size,
        "crop_size": processor.size,
        "size": (to, to) if isinstance(to, int) else to or processor.size,
    }
    for name, size in sizes.items():
        if math.prod(size) > MAX_PIXELS:
            raise CheckpointError(
                f"the config files set {name} to {size[0]}x{size[1]} pixels; the limit is {MAX_PIXELS:,} pixels "
                "in total; correct the image size in these files"
            )
    values = (*processor.mean, *processor.std, processor.rescale)
    if not all(abs(value) <= MAX_VALUE for value in values) or min(map(abs, processor.std)) < MIN_STD:
        raise CheckpointError(
            f"preprocessor_config.json: mean {processor.mean}, std {processor.std} or rescale {processor.rescale} "
            f"is out of range; absolute values must be at most {MAX_VALUE:,.0f}, and those of std at least {MIN_STD}"
        )


def _integers(value: Any) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _integers(item)
