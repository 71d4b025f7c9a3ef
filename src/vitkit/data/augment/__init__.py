"""Changes to training pictures that leave the label true; each a function of a picture and a random generator.

The generator is seeded per sample (see `loader`), so that a picture is changed in the same way whichever process reads
it. A further kind of change is one file with its config and its function, one field of `Augment`, and one line of
`augmented`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitkit.data import Opening
from vitkit.data.augment.crop import Crop, crop_and_resize
from vitkit.data.augment.erasing import Erasing, erase
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter, jittered, three_augment
from vitkit.data.augment.randaugment import RandAugment, randaugment
from vitkit.data.processor import Processor


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to a training picture, in this order; by default nothing.

    crop           which part is shown, see `Crop`
    rotate         the largest turn in degrees, either way
    shift          the largest move as a share of the side, either way
    zoom           the largest growth or shrinkage as a share
    flip           mirrors every second picture left to right
    three_augment  one of no colour, solarize and blur (DeiT III)
    randaugment    see `RandAugment`
    jitter         colours, see `Jitter`
    erasing        boxes of noise over the prepared picture, see `Erasing`
    mixing         pictures of a batch with one another, see `Mixing`
    repeats        so many changed copies of each picture in a row, of 1/repeats of the pictures in an epoch (Hoffer et
                   al. 2020; 3 in DeiT)
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
        """Refuses what would leave nothing of the picture."""
        for name, most in (("rotate", 180.0), ("shift", 1.0), ("zoom", 0.9)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; it lies between 0 and {most}")
        if self.repeats < 1:
            raise ValueError(f"augment.repeats is {self.repeats}; it must be at least 1")

    @property
    def colors(self) -> bool:
        """Whether anything needs the three channels of a colour picture."""
        return self.three_augment or self.randaugment.layers > 0 or self.jitter != Jitter()


class Transform:
    """A picture to what the model reads, (channels, rows, columns) float32: the processor's, with changes in
    between.

    Raises ValueError for changes of colour to grey pictures, and for a crop without room.
    """

    def __init__(self, processor: Processor, augment: Augment | None = None):
        self.processor = processor
        self.augment = augment or Augment()
        if self.augment.colors and processor.channels == 1:
            raise ValueError("the processor gives grey pictures: randaugment, jitter and three_augment need colour")
        self.augment.crop.check(processor.size)
        # How the weights have seen pictures opened, which is not always how `images` opens them.
        self.opening = Opening(profile=processor.profile, background=processor.background)
        # The geometry is done when the changes have been made: what is left is the numbers.
        self.numbers = replace(processor, resize="none", resize_to=None, center_crop="none")

    def __call__(self, image: Image.Image, random: np.random.Generator | None = None) -> Float32[np.ndarray, "c h w"]:
        """The picture prepared for training, or for evaluation where there is no generator."""
        if random is None:
            return self.numbers.array(self.processor.picture(image))
        if self.augment.crop.kind == "none":
            picture = self.processor.picture(image)
        else:
            picture = crop_and_resize(self.numbers.picture(image), self.augment.crop, self.processor, random)
        array = self.numbers.array(augmented(picture, self.augment, random))
        return erase(array, self.augment.erasing, random) if self.augment.erasing.probability else array


def augmented(picture: Image.Image, augment: Augment, random: np.random.Generator) -> Image.Image:
    """The picture, cropped already, after all further changes that `augment` names."""
    if augment.rotate or augment.shift or augment.zoom:
        picture = move(picture, augment, random)
    if augment.flip and random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augment.three_augment:
        picture = three_augment(picture, random)
    if augment.randaugment.layers:
        picture = randaugment(picture, augment.randaugment, random)
    return jittered(picture, augment.jitter, random) if augment.jitter != Jitter() else picture


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
