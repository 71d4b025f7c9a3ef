"""Changes to training pictures that leave the label true; each a function of a picture and a random generator.

The generator is seeded per sample (see `loader`), so that a picture is changed in the same way whichever process reads
it. A further kind of change is one function here and one field of `Augment`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitkit.data.processor import Processor


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to a training picture; by default nothing.

    `rotate` is the largest turn in degrees, `shift` the largest move as a share of the side, `zoom` the largest growth
    or shrinkage as a share, each either way; `flip` mirrors every second picture left to right.
    """

    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuses what would leave nothing of the picture."""
        for name, most in (("rotate", 180.0), ("shift", 1.0), ("zoom", 0.9)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; it lies between 0 and {most}")


class Transform:
    """A picture to what the model reads, (channels, rows, columns) float32: the processor's, with changes in
    between.
    """

    def __init__(self, processor: Processor, augment: Augment | None = None):
        self.processor = processor
        self.augment = augment or Augment()
        # The geometry is done when the changes have been made: what is left is the numbers.
        self.numbers = replace(processor, resize="none", resize_to=None, center_crop="none")

    def __call__(self, image: Image.Image, random: np.random.Generator | None = None) -> Float32[np.ndarray, "c h w"]:
        """The picture prepared for training, or for evaluation where there is no generator."""
        picture = self.processor.picture(image)
        if random is not None:
            picture = augmented(picture, self.augment, random)
        return self.numbers.array(picture)


def augmented(picture: Image.Image, augment: Augment, random: np.random.Generator) -> Image.Image:
    """The picture after all changes that `augment` names."""
    if augment.rotate or augment.shift or augment.zoom:
        picture = move(picture, augment, random)
    if augment.flip and random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture


def move(picture: Image.Image, augment: Augment, random: np.random.Generator) -> Image.Image:
    """The picture turned, moved and zoomed around its middle in one bilinear resampling; black comes in from
    outside.
    """
    turn, across, down, growth = random.uniform(-1.0, 1.0, size=4)
    angle = math.radians(turn * augment.rotate)
    scale = 1.0 / (1.0 + growth * augment.zoom)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    x, y = picture.width / 2, picture.height / 2
    # Pillow asks where each new pixel comes from: turn it back around the middle, then move it back.
    left = x - cos * x - sin * y - across * augment.shift * picture.width
    top = y + sin * x - cos * y - down * augment.shift * picture.height
    matrix = (cos, sin, left, -sin, cos, top)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
