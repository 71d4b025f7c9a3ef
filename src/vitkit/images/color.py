"""Converts images to sRGB: palettes, CMYK, Lab, embedded ICC profiles, and alpha over a background color."""

import io
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageCms

Profile = Literal["convert", "ignore"]
Color = tuple[int, int, int]

#: Color space in the ICC header (bytes 16 to 20) for each mode.
_SPACES: Final = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK", "LAB": b"Lab "}
#: A profile that changes no color by more than this is treated as sRGB.
_MAX_CHANGE: Final = 3


def _samples(mode: str) -> Image.Image:
    """Returns a test image with all gray values and, for RGB, a grid of colors.

    The rows of an RGB image are: grays, then combinations of full and zero channels, each with all 256 values; then a
    grid of 16 x 16 x 16 colors.
    """
    values = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(values[None])
    channels = np.array([[red, green, blue] for red in (0, 1) for green in (0, 1) for blue in (0, 1)], np.uint8)
    ramps = channels[::-1, None] * values[:, None]
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(np.concatenate([ramps, grid.reshape(16, 256, 3)]))


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform from an ICC profile to sRGB, or None if it changes no color or is invalid."""
    if profile[16:20] != _SPACES.get(mode):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        if mode in ("L", "RGB"):
            before = _samples(mode)
            change = np.asarray(before.convert("RGB"), np.int16) - np.asarray(transform.apply(before), np.int16)
            if np.abs(change).max() <= _MAX_CHANGE:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


@lru_cache(maxsize=1)
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB")


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Splits an 8-bit image into its colors and its alpha channel, which is None if there is no alpha."""
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    image = image.convert(straight) if straight else image
    if image.mode == "PA":
        alpha = image.getchannel("A")
        return image.convert("RGBA").convert("RGB"), alpha
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        return image.convert("L" if image.mode == "LA" else "RGB"), alpha
    return image, None


def to_srgb(image: Image.Image, profile: bytes | None, use: Profile = "convert") -> Image.Image:
    """Converts an 8-bit image without alpha to sRGB. Raises ValueError for an unsupported mode."""
    if image.mode in ("1", "P", "RGBX", "HSV", "YCbCr"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    transform = _transform(profile, image.mode) if profile and use == "convert" else None
    if transform is None and image.mode == "LAB":
        transform = _lab_to_rgb()
    if transform is not None:
        return transform.apply(image)
    if image.mode not in ("RGB", "L", "CMYK"):
        raise ValueError(f"image mode {image.mode!r} cannot be converted to RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def composite(image: Image.Image, alpha: Image.Image | None, background: Color) -> Image.Image:
    """Composites an RGB image over a background color with the given alpha channel."""
    if alpha is None or alpha.getextrema() == (255, 255):
        return image
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=alpha)
    return canvas


def check_background(background: Color) -> None:
    """Raises ValueError if a background is not an RGB color of three integers from 0 to 255."""
    if len(background) != 3 or any(not isinstance(c, int) or not 0 <= c <= 255 for c in background):
        raise ValueError(f"background must be three integers from 0 to 255 (red, green, blue), got {background!r}")
