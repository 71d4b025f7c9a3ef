"""Encodes small copies of many images for a report, whose total size is limited."""

import base64
import io
from collections.abc import Iterable, Sequence

from PIL import Image, features

# Sides in pixels and qualities, best first. The first that fits the limit is used for all images.
TIERS = ((192, 82), (176, 78), (160, 74), (144, 70), (128, 66), (112, 60), (96, 50), (80, 45))
LARGEST = TIERS[0][0]
LOSSLESS = 64  # pixels per side up to which an image is lossless, because the browser enlarges its pixels
SAMPLE = 32  # images that are encoded to choose a tier
MARGIN = 1.15  # by which the other images may be larger than the sample


def reduced(image: Image.Image, side: int = LARGEST) -> Image.Image:
    """Returns a copy of an image whose sides are at most `side` pixels."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def data_uri(image: Image.Image, side: int, quality: int) -> str:
    """Returns an image of at most `side` pixels per side as a data URI: WebP, or JPEG where Pillow has no WebP.

    Images of up to `LOSSLESS` pixels per side are lossless.
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
    """Returns images as data URIs of at most `budget` characters together.

    The size and the quality of all images depend on the budget. If even the smallest do not fit, the last images are
    left out, and the list is shorter.
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
