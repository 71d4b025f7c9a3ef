"""Encodes thumbnails of many images for a report, within a limit on their total size."""

import base64
import io
from collections.abc import Iterable, Sequence

from PIL import Image, features

# (side in pixels, encoding quality), best first. All images use the first pair that fits the limit.
TIERS = ((192, 82), (176, 78), (160, 74), (144, 70), (128, 66), (112, 60), (96, 50), (80, 45))
LARGEST = TIERS[0][0]
LOSSLESS = 64  # maximum side in pixels of lossless images, which the browser enlarges
SAMPLE = 32  # images that are encoded to choose a tier
MARGIN = 1.15  # factor by which the mean size of all images may exceed that of the sample


def reduced(image: Image.Image, side: int = LARGEST) -> Image.Image:
    """Returns a copy of an image whose sides are at most `side` pixels."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def data_uri(image: Image.Image, side: int, quality: int) -> str:
    """Returns an image, reduced to at most `side` pixels per side, as a data URI.

    The format is WebP. If Pillow does not support WebP, it is JPEG, or PNG for lossless images. Images of up to
    `LOSSLESS` pixels per side are lossless.
    """
    small, file = reduced(image, side), io.BytesIO()
    lossless, webp = max(small.size) <= LOSSLESS, features.check("webp")
    if webp:
        small.save(file, "WEBP", lossless=lossless, quality=quality, method=4)
    elif lossless:
        small.save(file, "PNG", optimize=True)
    else:
        small.save(file, "JPEG", quality=quality, optimize=True)
    kind = "webp" if webp else "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def encode(images: Sequence[Image.Image], budget: int) -> list[str]:
    """Returns images as data URIs with at most `budget` characters in total.

    All images have the same maximum side and quality, which depend on the budget. If even the smallest images do not
    fit, the last ones are left out of the list.
    """
    if not images:
        return []
    sample = images[:: max(1, len(images) // SAMPLE)]
    side, quality = TIERS[-1]
    for side, quality in TIERS:
        total = sum(len(data_uri(image, side, quality)) for image in sample)
        if total * len(images) / len(sample) * (MARGIN if len(sample) < len(images) else 1.0) <= budget:
            break
    return list(_fitting((data_uri(image, side, quality) for image in images), budget))


def _fitting(texts: Iterable[str], budget: int) -> Iterable[str]:
    for text in texts:
        budget -= len(text)
        if budget < 0:
            return
        yield text
