"""RandAugment as the ViT papers ran it: the sixteen operations of the TensorFlow original, its surprises included.

All are applied with certainty, at one fixed magnitude M of 0 to 10 and beyond, to 8-bit RGB pixels; what comes in from
outside is grey (128), places are rounded to the nearest pixel, fractions of levels are dropped. M = 0 is not nothing:
four operations then remove almost all colour, contrast, light or detail, and Solarize inverts. "Fixing" any of it
changes what the published numbers mean (AugReg, section 3; RandAugment, Cubuk et al. 2019).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vitkit.data.augment import randaugment_timm

Pixels = UInt8[np.ndarray, "h w 3"]
Operation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
FILL = 128


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """`layers` operations one after the other, each drawn from all of a set, at one `magnitude`; no layers, nothing.

    `operations` are the sixteen of the `tensorflow` original, or timm's and DeiT's `increasing` fifteen, whose
    magnitude has a standard deviation of `noise` (see `increasing`).
    `contrast` is what grey the operation Contrast moves away from: `original` keeps the defect of the original, the
    number of pixels / 256, so 196 at 224 x 224 and white for large pictures; `mean` is the mean grey it was meant to
    be.
    """

    layers: int = 0
    magnitude: float = 10.0
    contrast: Literal["original", "mean"] = "original"
    operations: Literal["tensorflow", "increasing"] = "tensorflow"
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what is no number of layers and no magnitude."""
        if self.layers < 0 or not 0.0 <= self.magnitude <= 100.0:
            raise ValueError(
                f"randaugment.layers is {self.layers} and magnitude {self.magnitude}; layers are at least 0, the "
                "magnitude lies between 0 and 100"
            )
        if self.noise < 0.0 or (self.noise and self.operations == "tensorflow"):
            raise ValueError(
                f"randaugment.noise is {self.noise} with the {self.operations} operations: it is at least 0, and only "
                "the increasing ones have any"
            )


def randaugment(picture: Image.Image, config: RandAugment, random: np.random.Generator) -> Image.Image:
    """The picture (mode RGB) after `layers` random operations."""
    if config.operations == "increasing":
        return randaugment_timm.augmented(picture, config.magnitude, config.noise, config.layers, random)
    pixels = np.asarray(picture)
    for name in random.choice(list(OPERATIONS), size=config.layers):
        if name == "Contrast" and config.contrast == "mean":
            pixels = contrast_to_mean(pixels, config.magnitude, random)
        else:
            pixels = OPERATIONS[str(name)](pixels, config.magnitude, random)
    return Image.fromarray(pixels)


def autocontrast(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Each channel stretched so that its darkest level becomes 0 and its brightest 255."""
    levels, out = np.arange(256, dtype=np.float32), pixels.copy()
    for channel in range(3):
        low, high = np.float32(pixels[..., channel].min()), np.float32(pixels[..., channel].max())
        if high > low:
            scale = np.float32(255) / (high - low)
            table = np.clip(levels * scale - low * scale, 0, 255).astype(np.uint8)
            out[..., channel] = table[pixels[..., channel]]
    return out


def equalize(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Each channel with its levels spread so that all are about equally frequent."""
    out = pixels.copy()
    for channel in range(3):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        if step:
            below = np.concatenate([[0], np.cumsum(counts)[:-1]])
            out[..., channel] = np.clip((below + step // 2) // step, 0, 255).astype(np.uint8)[pixels[..., channel]]
    return out


def invert(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """255 minus every level."""
    return 255 - pixels


def rotate(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Turned around the middle by 3 M degrees either way."""
    angle = math.radians(_signed(magnitude / 10 * 30, random))
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = (pixels.shape[1] - 1) / 2, (pixels.shape[0] - 1) / 2
    return _affine(pixels, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def posterize(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Only the upper int(0.4 M) bits; none below M = 2.5, where the original shifts by 8: black here."""
    shift = max(0, 8 - int(magnitude / 10 * 4))
    return (pixels.astype(np.uint16) >> shift << shift).astype(np.uint8)


def solarize(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Inverted from the level int(25.6 M) up, which wraps at 256: M = 0, 10 and 20 invert everything."""
    return np.where(pixels < int(magnitude / 10 * 256) % 256, pixels, 255 - pixels)


def solarize_add(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Levels below 128 raised by int(11 M), to 255 at most."""
    raised = np.clip(pixels.astype(np.int64) + int(magnitude / 10 * 110), 0, 255).astype(np.uint8)
    return np.where(pixels < 128, raised, pixels)


def color(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Away from its greys by the factor of `_blend`."""
    return _blend(np.repeat(_greys(pixels)[..., None], 3, axis=2), pixels, magnitude)


def contrast(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Away from the grey (number of pixels) / 256, the original's defect (big_vision issues 109 and 110)."""
    # The original takes the mean of the histogram's counts for the mean of the levels.
    grey = int(min(255.0, pixels.shape[0] * pixels.shape[1] / 256))
    return _blend(np.full_like(pixels, grey), pixels, magnitude)


def contrast_to_mean(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Away from the picture's mean grey, as it was meant."""
    return _blend(np.full_like(pixels, int(_greys(pixels).mean())), pixels, magnitude)


def brightness(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Away from black."""
    return _blend(np.zeros_like(pixels), pixels, magnitude)


def sharpness(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Away from itself smoothed by the 3 x 3 mean that counts the middle five times; the border is left alone."""
    rows, columns = pixels.shape[0] - 2, pixels.shape[1] - 2
    if rows < 1 or columns < 1:
        return pixels
    wide, smooth = pixels.astype(np.int32), pixels.copy()
    total = 4 * wide[1:-1, 1:-1]
    for top in range(3):
        for left in range(3):
            total += wide[top : top + rows, left : left + columns]
    smooth[1:-1, 1:-1] = total // 13
    return _blend(smooth, pixels, magnitude)


def shear_x(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Each row moved by 0.03 M of its number, either way."""
    return _affine(pixels, (1.0, _signed(magnitude / 10 * 0.3, random), 0.0, 0.0, 1.0, 0.0))


def shear_y(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Each column moved by 0.03 M of its number, either way."""
    return _affine(pixels, (1.0, 0.0, 0.0, _signed(magnitude / 10 * 0.3, random), 1.0, 0.0))


def translate_x(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Moved sideways by 10 M pixels (not a share of the side), either way."""
    return _affine(pixels, (1.0, 0.0, _signed(magnitude / 10 * 100, random), 0.0, 1.0, 0.0))


def translate_y(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Moved up or down by 10 M pixels."""
    return _affine(pixels, (1.0, 0.0, 0.0, 0.0, 1.0, _signed(magnitude / 10 * 100, random)))


def cutout(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """A grey square of twice int(4 M) pixels around any pixel, cut off at the border."""
    half, out = int(magnitude / 10 * 40), pixels.copy()
    row, column = (int(random.integers(side)) for side in pixels.shape[:2])
    out[max(0, row - half) : row + half, max(0, column - half) : column + half] = FILL
    return out


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Cutout": cutout,
    "SolarizeAdd": solarize_add,
}


def _blend(degenerate: Pixels, pixels: Pixels, magnitude: float) -> Pixels:
    """degenerate + f (pixels - degenerate) with the factor f = 0.18 M + 0.1: less than the picture below M = 5, beyond
    it above.
    """
    start = degenerate.astype(np.float32)
    factor = np.float32(magnitude / 10 * 1.8 + 0.1)
    return np.clip(start + (pixels.astype(np.float32) - start) * factor, 0, 255).astype(np.uint8)


def _greys(pixels: Pixels) -> UInt8[np.ndarray, "h w"]:
    """TensorFlow's grey levels of a picture."""
    weights: Float32[np.ndarray, 3] = np.array([0.2989, 0.587, 0.114], np.float32)
    return (pixels.astype(np.float32) @ weights / np.float32(255) * np.float32(255.5)).astype(np.uint8)


def _signed(value: float, random: np.random.Generator) -> float:
    return value if random.random() < 0.5 else -value


def _affine(pixels: Pixels, matrix: tuple[float, float, float, float, float, float]) -> Pixels:
    """Each pixel (x, y) from (ax + by + c, dx + ey + f), rounded to the nearest; grey from outside."""
    a, b, c, d, e, f = matrix
    # Pillow counts from the corners of pixels, TensorFlow from their middles.
    shifted = (a, b, c + 0.5 - 0.5 * (a + b), d, e, f + 0.5 - 0.5 * (d + e))
    picture = Image.fromarray(pixels)
    grey = (FILL, FILL, FILL)
    moved = picture.transform(picture.size, Image.Transform.AFFINE, shifted, Image.Resampling.NEAREST, fillcolor=grey)
    return np.asarray(moved)
