"""RandAugment of the ViT papers, with the sixteen operations of the TensorFlow code, including its known bugs.

All selected operations are applied, at a fixed magnitude M of 0 to 10 or more, to 8-bit RGB pixels. The border is
filled with gray (128), positions are rounded to the nearest pixel, pixel values are truncated to integers. M = 0 is not
the identity: four operations then remove almost all color, contrast, brightness or detail, and Solarize inverts.
Changing any of this changes the meaning of published results (AugReg, section 3; RandAugment, Cubuk et al. 2019).
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
    """Settings of RandAugment: number, magnitude and kind of the operations.

    layers      number of operations per image, sampled with replacement; 0 disables RandAugment
    magnitude   strength of the operations
    contrast    gray value that Contrast blends with: "original" keeps the defect of the original, the number of pixels
                divided by 256 (196 at 224 x 224, white for large images); "mean" is the mean gray value, as intended
    operations  "tensorflow" for the sixteen operations of the original, "increasing" for the fifteen of timm and DeiT
                (see `randaugment_timm`)
    noise       standard deviation of the magnitude, for "increasing"
    """

    layers: int = 0
    magnitude: float = 10.0
    contrast: Literal["original", "mean"] = "original"
    operations: Literal["tensorflow", "increasing"] = "tensorflow"
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        if self.layers < 0 or not 0.0 <= self.magnitude <= 100.0:
            raise ValueError(
                f"randaugment.layers is {self.layers} and magnitude {self.magnitude}; layers must be at least 0 "
                "and the magnitude between 0 and 100"
            )
        if self.noise < 0.0 or (self.noise and self.operations == "tensorflow"):
            raise ValueError(
                f"randaugment.noise is {self.noise} with the {self.operations} operations; it must be 0 "
                "for the tensorflow operations, and at least 0 otherwise"
            )


def randaugment(image: Image.Image, config: RandAugment, random: np.random.Generator) -> Image.Image:
    """Applies `config.layers` randomly sampled operations to an RGB image."""
    if config.operations == "increasing":
        return randaugment_timm.randaugment(image, config.magnitude, config.noise, config.layers, random)
    pixels = np.asarray(image)
    for name in random.choice(list(OPERATIONS), size=config.layers):
        if name == "Contrast" and config.contrast == "mean":
            pixels = contrast_to_mean(pixels, config.magnitude, random)
        else:
            pixels = OPERATIONS[str(name)](pixels, config.magnitude, random)
    return Image.fromarray(pixels)


def autocontrast(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Stretches the values of each channel so that the minimum becomes 0 and the maximum 255."""
    values, out = np.arange(256, dtype=np.float32), pixels.copy()
    for channel in range(3):
        low, high = np.float32(pixels[..., channel].min()), np.float32(pixels[..., channel].max())
        if high > low:
            scale = np.float32(255) / (high - low)
            table = np.clip(values * scale - low * scale, 0, 255).astype(np.uint8)
            out[..., channel] = table[pixels[..., channel]]
    return out


def equalize(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Equalizes the histogram of each channel."""
    out = pixels.copy()
    for channel in range(3):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        if step:
            below = np.concatenate([[0], np.cumsum(counts)[:-1]])
            out[..., channel] = np.clip((below + step // 2) // step, 0, 255).astype(np.uint8)[pixels[..., channel]]
    return out


def invert(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Inverts all pixel values: x becomes 255 - x."""
    return 255 - pixels


def rotate(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Rotates around the center by 3 * magnitude degrees in a random direction."""
    angle = math.radians(_signed(magnitude / 10 * 30, random))
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = (pixels.shape[1] - 1) / 2, (pixels.shape[0] - 1) / 2
    return _affine(pixels, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def posterize(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Keeps the upper int(0.4 * magnitude) bits of each pixel value. Images are black for magnitudes below 2.5."""
    shift = max(0, 8 - int(magnitude / 10 * 4))
    return (pixels.astype(np.uint16) >> shift << shift).astype(np.uint8)


def solarize(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Inverts pixel values of at least int(25.6 * magnitude) mod 256. The magnitudes 0, 10 and 20 invert all."""
    return np.where(pixels < int(magnitude / 10 * 256) % 256, pixels, 255 - pixels)


def solarize_add(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Adds int(11 * magnitude) to pixel values below 128 and clips the result at 255."""
    raised = np.clip(pixels.astype(np.int64) + int(magnitude / 10 * 110), 0, 255).astype(np.uint8)
    return np.where(pixels < 128, raised, pixels)


def color(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Blends an image with its grayscale version. The magnitude determines the weights (see `_blend`)."""
    return _blend(np.repeat(_greys(pixels)[..., None], 3, axis=2), pixels, magnitude)


def contrast(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Blends an image with the gray value (number of pixels) / 256, which is a known bug of the original code."""
    # The original uses the mean of the histogram counts instead of the mean pixel value.
    gray = int(min(255.0, pixels.shape[0] * pixels.shape[1] / 256))
    return _blend(np.full_like(pixels, gray), pixels, magnitude)


def contrast_to_mean(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Blends an image with the mean of its gray values, as the original code intended."""
    return _blend(np.full_like(pixels, int(_greys(pixels).mean())), pixels, magnitude)


def brightness(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Blends an image with black. The magnitude determines the weights (see `_blend`)."""
    return _blend(np.zeros_like(pixels), pixels, magnitude)


def sharpness(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Blends an image with a smoothed version (3 x 3 mean, center weight 5). Border pixels do not change."""
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
    """Shifts each row by 0.03 * magnitude * (row index) pixels in a random direction."""
    return _affine(pixels, (1.0, _signed(magnitude / 10 * 0.3, random), 0.0, 0.0, 1.0, 0.0))


def shear_y(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Shifts each column by 0.03 * magnitude * (column index) pixels in a random direction."""
    return _affine(pixels, (1.0, 0.0, 0.0, _signed(magnitude / 10 * 0.3, random), 1.0, 0.0))


def translate_x(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Translates horizontally by 10 * magnitude pixels, independent of the width, in a random direction."""
    return _affine(pixels, (1.0, 0.0, _signed(magnitude / 10 * 100, random), 0.0, 1.0, 0.0))


def translate_y(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Translates vertically by 10 * magnitude pixels, independent of the height, in a random direction."""
    return _affine(pixels, (1.0, 0.0, 0.0, 0.0, 1.0, _signed(magnitude / 10 * 100, random)))


def cutout(pixels: Pixels, magnitude: float, random: np.random.Generator) -> Pixels:
    """Fills a square with a side of 2 * int(4 * magnitude) pixels, centered at a random pixel, with gray."""
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
    """Blends two images: degenerate + f * (pixels - degenerate) with the factor f = 0.18 * magnitude + 0.1."""
    start = degenerate.astype(np.float32)
    factor = np.float32(magnitude / 10 * 1.8 + 0.1)
    return np.clip(start + (pixels.astype(np.float32) - start) * factor, 0, 255).astype(np.uint8)


def _greys(pixels: Pixels) -> UInt8[np.ndarray, "h w"]:
    """Returns the gray values of an image, computed as in TensorFlow."""
    weights: Float32[np.ndarray, 3] = np.array([0.2989, 0.587, 0.114], np.float32)
    return (pixels.astype(np.float32) @ weights / np.float32(255) * np.float32(255.5)).astype(np.uint8)


def _signed(value: float, random: np.random.Generator) -> float:
    return value if random.random() < 0.5 else -value


def _affine(pixels: Pixels, matrix: tuple[float, float, float, float, float, float]) -> Pixels:
    """Copies pixel (x, y) from (ax + by + c, dx + ey + f), rounded. Pixels from outside the image are gray."""
    a, b, c, d, e, f = matrix
    # Coordinates of Pillow refer to the corners of pixels, those of TensorFlow to their centers.
    shifted = (a, b, c + 0.5 - 0.5 * (a + b), d, e, f + 0.5 - 0.5 * (d + e))
    image = Image.fromarray(pixels)
    gray = (FILL, FILL, FILL)
    moved = image.transform(image.size, Image.Transform.AFFINE, shifted, Image.Resampling.NEAREST, fillcolor=gray)
    return np.asarray(moved)
