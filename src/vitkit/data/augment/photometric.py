"""Changes of colour that leave every pixel where it is: colour jitter, and the choice of three of DeiT III."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """How far brightness, contrast and saturation may be scaled up or down, and hues turned (0.5 is half the circle).

    As torchvision's ColorJitter: factors uniform between 1 - v (at least 0) and 1 + v, in a random order. DeiT has 0.3
    for the first three.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is no strength."""
        for name, most in (("brightness", 10.0), ("contrast", 10.0), ("saturation", 10.0), ("hue", 0.5)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"jitter.{name} is {getattr(self, name)}; it lies between 0 and {most}")


def jittered(picture: Image.Image, jitter: Jitter, random: np.random.Generator) -> Image.Image:
    """The picture (mode RGB) with its colours scaled at random."""
    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    for name in random.permutation([*enhancers, "hue"]):
        strength = getattr(jitter, name)
        if not strength:
            continue
        if name == "hue":
            picture = turn_hue(picture, random.uniform(-strength, strength))
        else:
            picture = enhancers[name](picture).enhance(random.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
    return picture


def turn_hue(picture: Image.Image, share: float) -> Image.Image:
    """All hues turned by a share of the circle, in 255 steps as torchvision does."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + int(share * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def three_augment(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Exactly one of three: no colour, levels from 128 up inverted, or a blur of radius 0.1 to 2 (DeiT III, section
    3).
    """
    choice = random.integers(3)
    if choice == 0:
        return picture.convert("L").convert("RGB")
    if choice == 1:
        return ImageOps.solarize(picture, threshold=128)
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
