"""RandAugment of timm and DeiT ("rand-m9-mstd0.5-inc1") with fifteen operations.

Each selected operation is applied with probability 0.5, at a magnitude sampled from a normal distribution and clipped
to 0 to 10. Resampling is bicubic and the border is filled with the mean color of ImageNet. Differences from the
TensorFlow original (`randaugment`): no Cutout, translation by a fraction of the side, Posterize and Solarize are
stronger at a larger magnitude, and color operations go in both directions. An operation is a function of an image and a
magnitude of 0 to 10, negative for the opposite direction where there is one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

PROBABILITY = 0.5
HIGHEST = 10.0
#: Mean color of ImageNet, 8 bits.
FILL = (124, 116, 104)


def randaugment(
    image: Image.Image, magnitude: float, noise: float, layers: int, random: np.random.Generator
) -> Image.Image:
    """Applies `layers` random operations to an RGB image. `noise` is the standard deviation of the magnitude."""
    for name in random.choice(list(OPERATIONS), size=layers):
        if random.random() < PROBABILITY:
            sampled = min(HIGHEST, max(0.0, random.normal(magnitude, noise) if noise else magnitude))
            sign = 1.0 if random.random() < 0.5 else -1.0
            image = OPERATIONS[str(name)](image, sign * sampled)
    return image


def autocontrast(image: Image.Image, magnitude: float) -> Image.Image:
    """Stretches the values of each channel to the full range 0..255."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, magnitude: float) -> Image.Image:
    """Equalizes the histogram of each channel."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, magnitude: float) -> Image.Image:
    """Inverts all pixel values: x becomes 255 - x."""
    return ImageOps.invert(image)


def rotate(image: Image.Image, magnitude: float) -> Image.Image:
    """Rotates around the center by 3 * magnitude degrees."""
    return image.rotate(magnitude / HIGHEST * 30.0, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def posterize(image: Image.Image, magnitude: float) -> Image.Image:
    """Keeps the upper 4 - int(0.4 * |magnitude|) bits of each pixel value. At magnitude 10 the image is black."""
    bits = 4 - int(abs(magnitude) / HIGHEST * 4)
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def solarize(image: Image.Image, magnitude: float) -> Image.Image:
    """Inverts pixel values of at least 256 - int(25.6 * |magnitude|). At magnitude 10 all values are inverted."""
    return ImageOps.solarize(image, 256 - min(256, int(abs(magnitude) / HIGHEST * 256)))


def solarize_add(image: Image.Image, magnitude: float) -> Image.Image:
    """Adds int(11 * |magnitude|) to pixel values below 128."""
    more = min(128, int(abs(magnitude) / HIGHEST * 110))
    return image.point([min(255, value + more) if value < 128 else value for value in range(256)] * 3)


def shear_x(image: Image.Image, magnitude: float) -> Image.Image:
    """Shifts each row by 0.03 * magnitude * (row index) pixels."""
    return _affine(image, (1.0, magnitude / HIGHEST * 0.3, 0.0, 0.0, 1.0, 0.0))


def shear_y(image: Image.Image, magnitude: float) -> Image.Image:
    """Shifts each column by 0.03 * magnitude * (column index) pixels."""
    return _affine(image, (1.0, 0.0, 0.0, magnitude / HIGHEST * 0.3, 1.0, 0.0))


def translate_x(image: Image.Image, magnitude: float) -> Image.Image:
    """Translates horizontally by 4.5% of the width, multiplied by the magnitude."""
    return _affine(image, (1.0, 0.0, magnitude / HIGHEST * 0.45 * image.width, 0.0, 1.0, 0.0))


def translate_y(image: Image.Image, magnitude: float) -> Image.Image:
    """Translates vertically by 4.5% of the height, multiplied by the magnitude."""
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, magnitude / HIGHEST * 0.45 * image.height))


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    return image.transform(image.size, Image.Transform.AFFINE, matrix, bicubic, fillcolor=FILL)


def _enhancing(enhancer: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float], Image.Image]:
    """Returns an operation that applies a Pillow enhancer with the factor max(0.1, 1 + 0.09 * magnitude)."""

    def enhance(image: Image.Image, magnitude: float) -> Image.Image:
        enhanced: Image.Image = enhancer(image).enhance(max(0.1, 1.0 + magnitude / HIGHEST * 0.9))
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
