"""Rescales and normalizes 8-bit pixels with a lookup table. Defines common values of mean and std."""

from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
#: Statistics of OpenAI's CLIP, which BiT's and DINOv2's processors of transformers have by default, too.
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
#: Mean and standard deviation that map [0, 1] to [-1, 1], as Google's ViTs use.
HALF: Final = (0.5, 0.5, 0.5)


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Returns the values of mean, std or fill for another number of channels.

    One value is repeated. RGB values become their mean for one channel, and are repeated (R, G, B, R, ...) for others,
    as input weights are adapted (`layers.adapt_input_weight`). Raises ValueError for other numbers of values.
    """
    if len(values) == channels:
        return values
    if len(values) not in (1, 3):
        raise ValueError(
            f"{len(values)} values cannot be extended to {channels} channels; expected 1, 3 or {channels} values"
        )
    if channels == 1:
        return (sum(values) / len(values),)
    return (values * channels)[:channels]


@lru_cache(maxsize=64)
def table(rescale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Float32[np.ndarray, "c 256"]:
    """Returns a lookup table with the normalized values of the pixel values 0 to 255, one row per channel.

    The order of rounding is that of transformers and timm.
    """
    values = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    return (values - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]


def normalize(
    pixels: UInt8[np.ndarray, "h w *c"], rescale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[np.ndarray, "c h w"]:
    """Rescales 8-bit pixels and normalizes each channel with its mean and std."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    normalized = np.empty((len(mean), *pixels.shape[:2]), np.float32)
    for channel, row in enumerate(table(rescale, mean, std)):
        np.take(row, pixels[..., channel], out=normalized[channel], mode="clip")
    return normalized


def normalize_fused(
    pixels: UInt8[np.ndarray, "h w c"], rescale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[np.ndarray, "c h w"]:
    """Rescales and normalizes with one multiplication and one subtraction. Equal to `normalize` up to rounding."""
    factor, shift = rescale / np.array(std, np.float64), np.array(mean, np.float64) / np.array(std, np.float64)
    normalized = np.empty((len(mean), *pixels.shape[:2]), np.float32)
    np.multiply(np.moveaxis(pixels, -1, 0), factor.astype(np.float32)[:, None, None], out=normalized)
    normalized -= shift.astype(np.float32)[:, None, None]
    return normalized
