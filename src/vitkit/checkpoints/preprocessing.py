"""Default preprocessing of each project, for checkpoints that do not include preprocessing settings."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models import resnet as resnets
from vitkit.models.vit import Config


def stated(read: Callable[[], Processor], where: str) -> Processor:
    """Calls `read` to parse the processor settings of a file. Raises CheckpointError if they are invalid."""
    try:
        return read()
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {' '.join(str(error).split())[:300]}") from None


def google(config: Config) -> Processor:
    """Returns Google's processor: resize to `image_size` without keeping the aspect ratio, scale pixels to -1..1."""
    return fitted(Processor.squash(config.image_size), config)


def big_vision(config: Config) -> Processor:
    """Returns big_vision's processor: resize the short side to 8/7 of the size, center-crop, scale pixels to -1..1.

    SigLIP models, which have a MAP head, squash images instead.
    """
    if config.pool == "map":
        return google(config)
    return fitted(Processor.crop(config.image_size, 7 / 8, interpolation="box"), config)


def meta(config: Config, crop_fraction: float = 7 / 8) -> Processor:
    """Returns the processor of Meta's models: resize (bicubic) to size / crop_fraction, crop, ImageNet mean and std."""
    return fitted(Processor.crop(config.image_size, crop_fraction, mean=IMAGENET_MEAN, std=IMAGENET_STD), config)


def torchvision(config: Config) -> Processor:
    """Returns torchvision's processor: resize to 256 (bilinear), center-crop to 224, ImageNet mean and std.

    The larger SWAG models use a bicubic resize to their size.
    """
    native = config.image_size == (224, 224)
    processor = meta(config, 7 / 8 if native else 1.0)
    return replace(processor, interpolation="bilinear") if native else processor


def resnet(config: resnets.Config, crop_fraction: float = 7 / 8, **settings: Any) -> Processor:
    """Returns the processor of torchvision's first ResNet weights: resize (bilinear) to size / crop_fraction, crop.

    `settings` are other fields of the processor, such as `interpolation`.
    """
    chosen = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bilinear", **settings}
    processor = Processor.crop(config.image_size, crop_fraction, **chosen)
    return replace(processor, profile="ignore").with_channels(config.channels)


def fitted(processor: Processor, config: Config) -> Processor:
    """Returns the processor for the model's channels, without color management as in published evaluations."""
    return replace(processor, profile="ignore").with_channels(config.channels)


def resized(processor: Processor, size: tuple[int, int]) -> Processor:
    """Returns the processor for another image size, with the same crop fraction."""
    to = processor.resize_to
    if to is None or to == processor.size:
        return replace(processor, size=size, resize_to=None)
    if isinstance(to, int):
        ratio = to / min(processor.size)
        if size[0] == size[1]:
            return replace(processor, size=size, resize_to=int(min(size) * ratio))
        return replace(processor, size=size, resize_to=(int(size[0] * ratio), int(size[1] * ratio)))
    ratios = to[0] / processor.size[0], to[1] / processor.size[1]
    return replace(processor, size=size, resize_to=(int(size[0] * ratios[0]), int(size[1] * ratios[1])))
