"""Color augmentation: color jitter and DeiT III's 3-Augment."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Settings of color jitter, as in torchvision's ColorJitter. The value 0 disables an operation.

    Factors for brightness, contrast and saturation are uniform in [max(0, 1 - v), 1 + v], the hue shift in [-hue, hue]
    with 0.5 for half the color circle. The order is random. DeiT uses 0.3 for the first three.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        for name, most in (("brightness", 10.0), ("contrast", 10.0), ("saturation", 10.0), ("hue", 0.5)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"jitter.{name} is {getattr(self, name)}; it must be between 0 and {most}")


def color_jitter(image: Image.Image, jitter: Jitter, random: np.random.Generator) -> Image.Image:
    """Applies color jitter to an RGB image."""
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
            image = shift_hue(image, random.uniform(-strength, strength))
        else:
            image = enhancers[name](image).enhance(random.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
    return image


def shift_hue(image: Image.Image, amount: float) -> Image.Image:
    """Shifts the hue of all pixels by a fraction of the color circle, in steps of 1/255 as in torchvision."""
    hue, saturation, brightness = image.convert("HSV").split()
    shifted = hue.point([(value + int(amount * 255)) % 256 for value in range(256)])
    return Image.merge("HSV", (shifted, saturation, brightness)).convert("RGB")


def three_augment(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Applies one of three random operations: grayscale, solarize at 128, or blur with a radius of 0.1 to 2 pixels."""
    choice = random.integers(3)
    if choice == 0:
        return image.convert("L").convert("RGB")
    if choice == 1:
        return ImageOps.solarize(image, threshold=128)
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
