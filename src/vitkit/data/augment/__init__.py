"""Augmentation of training images. Each operation is a function of an image and a random number generator.

The generator is seeded per sample (see `loader`), so the result does not depend on the process that reads the image. To
add an operation, write one file with its config and its function, and add one field to `Augment` and one line to
`augmented`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitkit.data import ReadOptions
from vitkit.data.augment.crop import Crop, crop_and_resize
from vitkit.data.augment.erasing import Erasing, erase
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter, color_jitter, three_augment
from vitkit.data.augment.randaugment import RandAugment, randaugment
from vitkit.data.processor import Processor
from vitkit.images import DEFAULT_LIMITS, AnyImage, Bands, Limits


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Augmentation settings, in the order in which the operations are applied. The default is no augmentation.

    crop           random crop, see `Crop`
    rotate         maximum rotation in degrees, in both directions
    shift          maximum translation as a fraction of the side, in both directions
    zoom           maximum change of scale as a fraction
    flip           horizontal flip with probability 0.5
    three_augment  one of grayscale, solarize and blur (DeiT III)
    randaugment    see `RandAugment`
    jitter         color jitter, see `Jitter`
    erasing        random erasing of the normalized image, see `Erasing`
    mixing         Mixup and CutMix within the batch, see `Mixing`
    repeats        repeated augmentation: an epoch has 1/repeats of the images, each in this many consecutive copies
                   (Hoffer et al. 2020; 3 in DeiT)
    """

    crop: Crop = field(default_factory=Crop)
    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    three_augment: bool = False
    randaugment: RandAugment = field(default_factory=RandAugment)
    jitter: Jitter = field(default_factory=Jitter)
    erasing: Erasing = field(default_factory=Erasing)
    mixing: Mixing = field(default_factory=Mixing)
    repeats: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        for name, most in (("rotate", 180.0), ("shift", 1.0), ("zoom", 0.9)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; it must be between 0 and {most}")
        if self.repeats < 1:
            raise ValueError(f"augment.repeats is {self.repeats}; it must be at least 1")

    @property
    def colors(self) -> bool:
        """Whether any operation requires RGB images."""
        return self.three_augment or self.randaugment.layers > 0 or self.jitter != Jitter()


class Transform:
    """Converts an image to the model input, an array (channels, height, width) in float32, with augmentation.

    `limits` are those of the image files. Raises ValueError for color augmentation without an RGB processor, and if the
    crop is larger than the image.
    """

    def __init__(self, processor: Processor, augment: Augment | None = None, limits: Limits = DEFAULT_LIMITS):
        self.processor = processor
        self.augment = augment or Augment()
        if self.augment.colors and processor.channels != 3:
            given = "is grayscale" if processor.channels == 1 else f"has {processor.channels} channels"
            raise ValueError(f"the processor {given}; randaugment, jitter and three_augment need an RGB processor")
        self.augment.crop.check(processor.size)
        # The weights may have been trained with other options than the defaults of `open_image`.
        self.read_options = read_options(processor, limits)
        # Rescaling and normalization only: the augmented image has its final size.
        self.normalizer = replace(processor, resize="none", resize_to=None, center_crop="none")

    def __call__(self, image: AnyImage, random: np.random.Generator | None = None) -> Float32[np.ndarray, "c h w"]:
        """Preprocesses an image. Augmentation is applied if a random number generator is given."""
        if random is None:
            return self.normalizer.array(self.processor.image(image))
        if self.augment.crop.kind == "none":
            cropped = self.processor.image(image)
        else:
            cropped = crop_and_resize(self.normalizer.image(image), self.augment.crop, self.processor, random)
        array = self.normalizer.array(augmented(cropped, self.augment, random))
        return erase(array, self.augment.erasing, random) if self.augment.erasing.probability else array


def read_options(processor: Processor, limits: Limits = DEFAULT_LIMITS) -> ReadOptions:
    """Returns the options for reading images with the file settings of a processor."""
    return ReadOptions(
        limits=limits,
        profile=processor.profile,
        background=processor.background,
        channels=processor.channels,
        data_range=processor.data_range,
    )


def augmented(image: AnyImage, augment: Augment, random: np.random.Generator) -> AnyImage:
    """Applies all augmentations of a single image except the random crop and erasing."""
    if augment.rotate or augment.shift or augment.zoom:
        image = move(image, augment, random)
    if augment.flip and random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if isinstance(image, Bands):
        return image  # `Transform` rejects operations on colors for bands
    if augment.three_augment:
        image = three_augment(image, random)
    if augment.randaugment.layers:
        image = randaugment(image, augment.randaugment, random)
    return color_jitter(image, augment.jitter, random) if augment.jitter != Jitter() else image


def move(image: AnyImage, augment: Augment, random: np.random.Generator) -> AnyImage:
    """Rotates, translates and scales an image around its center (bilinear). Pixels from outside the image are black."""
    rotation, across, down, growth = random.uniform(-1.0, 1.0, size=4)
    angle = math.radians(rotation * augment.rotate)
    scale = 1.0 / (1.0 + growth * augment.zoom)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y = image.width / 2, image.height / 2
    # Pillow expects the inverse transform: rotate back around the center, then translate back.
    left = x - cos * x - sin * y - across * augment.shift * image.width
    top = y + sin * x - cos * y - down * augment.shift * image.height
    matrix = (cos, sin, left, -sin, cos, top)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
