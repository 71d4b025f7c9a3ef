"""Preprocessing for files that hold none: what each lineage of weights was evaluated with."""

from collections.abc import Callable
from dataclasses import replace

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.data.processor import HALF, IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.models.vit import Config


def stated(read: Callable[[], Processor], where: str) -> Processor:
    """What `read` makes of a file's words; CheckpointError that names the file where they make no sense."""
    try:
        return read()
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {' '.join(str(error).split())[:300]}") from None


def google(config: Config) -> Processor:
    """Squashed to size, -1..1 (vision_transformer's input pipeline)."""
    return fitted(Processor.squash(config.image_size), config)


def big_vision(config: Config) -> Processor:
    """Short side 8/7 of the size by area averaging, centre crop, -1..1; SigLIP, which has a MAP head, squashed."""
    if config.pool == "map":
        return google(config)
    return fitted(Processor.crop(config.image_size, 7 / 8, interpolation="box"), config)


def meta(config: Config, crop_fraction: float = 7 / 8) -> Processor:
    """Short side 8/7 of the size (DeiT III: the size itself) bicubic, centre crop, ImageNet statistics."""
    return fitted(Processor.crop(config.image_size, crop_fraction, mean=IMAGENET_MEAN, std=IMAGENET_STD), config)


def torchvision(config: Config) -> Processor:
    """256 bilinear and crop 224, or, for the larger sizes of SWAG, bicubic to the size itself; ImageNet statistics."""
    native = config.image_size == (224, 224)
    processor = meta(config, 7 / 8 if native else 1.0)
    return replace(processor, interpolation="bilinear") if native else processor


def fitted(processor: Processor, config: Config) -> Processor:
    """The processor as published weights were evaluated: no colour management; grey pictures for a single channel."""
    processor = replace(processor, profile="ignore")
    if config.channels == 1 and processor.channels == 3:
        return replace(processor, mean=HALF[:1], std=HALF[:1], fill=(0,))
    return processor


def resized(processor: Processor, size: tuple[int, int]) -> Processor:
    """The same processing for another size, the share of the picture that is cropped kept."""
    to = processor.resize_to
    if to is None or to == processor.size:
        return replace(processor, size=size, resize_to=None)
    if isinstance(to, int):
        share = to / min(processor.size)
        if size[0] == size[1]:
            return replace(processor, size=size, resize_to=int(min(size) * share))
        return replace(processor, size=size, resize_to=(int(size[0] * share), int(size[1] * share)))
    shares = to[0] / processor.size[0], to[1] / processor.size[1]
    return replace(processor, size=size, resize_to=(int(size[0] * shares[0]), int(size[1] * shares[1])))
