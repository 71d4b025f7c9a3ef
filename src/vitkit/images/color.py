"""Colours of any kind to sRGB: palettes, CMYK, Lab, embedded ICC profiles, and alpha over a background."""

import io
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageCms

Profile = Literal["convert", "ignore"]
Color = tuple[int, int, int]

#: The colour space that an ICC header (bytes 16 to 20) names for each mode.
_SPACES: Final = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK", "LAB": b"Lab "}
#: A profile that moves no colour by more levels than this is sRGB under another name.
_SAME: Final = 3


def _samples(mode: str) -> Image.Image:
    """A small picture of colours spread over a whole mode."""
    steps = np.linspace(0, 255, 6).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(grid.reshape(6, 36, 3))


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None if there is nothing to do or the profile is broken or of another mode."""
    if profile[16:20] != _SPACES.get(mode):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
        if mode in ("L", "RGB"):
            before = _samples(mode)
            moved = np.asarray(before.convert("RGB"), np.int16) - np.asarray(transform.apply(before), np.int16)
            if np.abs(moved).max() <= _SAME:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


@lru_cache(maxsize=1)
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB")


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture of 8 bits without its alpha channel, and that channel."""
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
    """A picture of 8 bits without alpha in mode RGB; errors: ValueError for a mode without a known meaning."""
    if image.mode in ("1", "P", "RGBX", "HSV", "YCbCr"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    transform = _transform(profile, image.mode) if profile and use == "convert" else None
    if transform is None and image.mode == "LAB":
        transform = _lab_to_rgb()
    if transform is not None:
        return transform.apply(image)
    if image.mode not in ("RGB", "L", "CMYK"):
        raise ValueError(f"a picture in mode {image.mode!r} has no known way to RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def over(image: Image.Image, alpha: Image.Image | None, background: Color) -> Image.Image:
    """An RGB picture seen through its alpha channel before a background of one colour."""
    if alpha is None or alpha.getextrema() == (255, 255):
        return image
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(image, mask=alpha)
    return canvas


def check_background(background: Color) -> None:
    """Refuse a background that is not a colour, with a sentence that says what is."""
    if len(background) != 3 or any(not isinstance(c, int) or not 0 <= c <= 255 for c in background):
        raise ValueError(f"a background is three whole numbers from 0 to 255 (red, green, blue), got {background!r}")
