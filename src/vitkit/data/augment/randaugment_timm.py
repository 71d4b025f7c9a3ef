"""RandAugment as timm and DeiT run it ("rand-m9-mstd0.5-inc1"): fifteen operations that all grow with the magnitude.

Each of the drawn operations is applied with probability one half, at a magnitude drawn from a normal distribution and
kept between 0 and 10; places are interpolated, and what comes in from outside has ImageNet's mean colour. Beside the
TensorFlow original (`randaugment`) there is no Cutout, translation is a share of the side, Posterize and Solarize do
more with a larger magnitude, and colours move either way from the picture. An operation is a function of a picture
and a level of 0 to 10, negative for the other direction where it has one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

PROBABILITY = 0.5
HIGHEST = 10.0
#: ImageNet's mean colour in 8 bits.
FILL = (124, 116, 104)


def augmented(
    picture: Image.Image, magnitude: float, noise: float, layers: int, random: np.random.Generator
) -> Image.Image:
    """The picture (mode RGB) after `layers` random operations; `noise` is the magnitude's standard deviation."""
    for name in random.choice(list(OPERATIONS), size=layers):
        if random.random() < PROBABILITY:
            level = min(HIGHEST, max(0.0, random.normal(magnitude, noise) if noise else magnitude))
            sign = 1.0 if random.random() < 0.5 else -1.0
            picture = OPERATIONS[str(name)](picture, sign * level)
    return picture


def autocontrast(picture: Image.Image, level: float) -> Image.Image:
    """Each channel stretched to all levels."""
    return ImageOps.autocontrast(picture)


def equalize(picture: Image.Image, level: float) -> Image.Image:
    """Each channel with its levels spread evenly."""
    return ImageOps.equalize(picture)


def invert(picture: Image.Image, level: float) -> Image.Image:
    """255 minus every level."""
    return ImageOps.invert(picture)


def rotate(picture: Image.Image, level: float) -> Image.Image:
    """Turned around the middle by 3 degrees a level."""
    return picture.rotate(level / HIGHEST * 30.0, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def posterize(picture: Image.Image, level: float) -> Image.Image:
    """Only the upper 4 - int(0.4 level) bits; black at 10, which newer Pillows refuse to do."""
    bits = 4 - int(abs(level) / HIGHEST * 4)
    return ImageOps.posterize(picture, bits) if bits else Image.new("RGB", picture.size)


def solarize(picture: Image.Image, level: float) -> Image.Image:
    """Inverted from 256 - int(25.6 level) up; all of it at 10."""
    return ImageOps.solarize(picture, 256 - min(256, int(abs(level) / HIGHEST * 256)))


def solarize_add(picture: Image.Image, level: float) -> Image.Image:
    """Levels below 128 raised by int(11 level)."""
    more = min(128, int(abs(level) / HIGHEST * 110))
    return picture.point([min(255, value + more) if value < 128 else value for value in range(256)] * 3)


def shear_x(picture: Image.Image, level: float) -> Image.Image:
    """Each row moved by 0.03 of its number a level."""
    return _moved(picture, (1.0, level / HIGHEST * 0.3, 0.0, 0.0, 1.0, 0.0))


def shear_y(picture: Image.Image, level: float) -> Image.Image:
    """Each column moved by 0.03 of its number a level."""
    return _moved(picture, (1.0, 0.0, 0.0, level / HIGHEST * 0.3, 1.0, 0.0))


def translate_x(picture: Image.Image, level: float) -> Image.Image:
    """Moved sideways by 4.5 % of its width a level."""
    return _moved(picture, (1.0, 0.0, level / HIGHEST * 0.45 * picture.width, 0.0, 1.0, 0.0))


def translate_y(picture: Image.Image, level: float) -> Image.Image:
    """Moved up or down by 4.5 % of its height a level."""
    return _moved(picture, (1.0, 0.0, 0.0, 0.0, 1.0, level / HIGHEST * 0.45 * picture.height))


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, bicubic, fillcolor=FILL)


def _enhancing(enhancer: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float], Image.Image]:
    """Away from the picture by the factor 1 + 0.09 level, at least 0.1."""

    def enhance(picture: Image.Image, level: float) -> Image.Image:
        enhanced: Image.Image = enhancer(picture).enhance(max(0.1, 1.0 + level / HIGHEST * 0.9))
        return enhanced

    return enhance


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": _enhancing(ImageEnhance.Color),
    "ContrastIncreasing": _enhancing(ImageEnhance.Contrast),
    "BrightnessIncreasing": _enhancing(ImageEnhance.Brightness),
    "SharpnessIncreasing": _enhancing(ImageEnhance.Sharpness),
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}
