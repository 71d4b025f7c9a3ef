"""Resizing and cropping by our own kernel, as long as it is Pillow's resize bit for bit; at several times its rate."""

from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitkit.data.processor.geometry import MAX_RESIZED, Crop, Interpolation, Size, crop_start
from vitkit.kernels import resize

_FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# From size to size, (rows, columns): smaller, larger, either way of one axis, and where Pillow 13 takes rows first.
_PROBES: Final = (
    ((37, 53), (19, 21)),
    ((11, 13), (29, 17)),
    ((41, 23), (17, 19)),
    ((41, 23), (17, 31)),
    ((20, 31), (33, 31)),
    ((20, 31), (14, 28)),
    ((20, 31), (14, 29)),
    ((48, 48), (5, 6)),
)


def resize_and_crop(
    pixels: UInt8[np.ndarray, "h w 3"], to: Size, name: Interpolation, rule: Crop, size: Size
) -> UInt8[np.ndarray, "rows columns 3"] | None:
    """What `geometry.resize_and_crop` makes of the picture, or `resize_whole` where the rule is "none".

    None where that is left to Pillow: other filters, crops that reach outside, very large pictures, another Pillow.
    """
    if pixels.ndim != 3 or not resizes(to, name, rule, size):
        return None
    size = to if rule == "none" else size
    top, left = (0, 0) if rule == "none" else (crop_start(n, m, rule) for n, m in zip(to, size, strict=True))
    if pixels.shape[:2] == to:
        return pixels[top : top + size[0], left : left + size[1]]
    given = pixels.shape[0], pixels.shape[1]
    rows_first = rows_before_columns() == "steep" and _steep(given, to)
    return resize.resize(pixels, to, (top, left, *size), cubic=name == "bicubic", rows_first=rows_first)


def resizes(to: Size, name: Interpolation, rule: Crop, size: Size) -> bool:
    """Whether pictures of RGB are resized here to `to` and cropped to `size` by that filter and rule."""
    inside = rule == "none" or (to[0] >= size[0] and to[1] >= size[1])
    return name in _FILTERS and inside and to[0] * to[1] <= MAX_RESIZED and rows_before_columns() is not None


def _steep(given: Size, to: Size) -> bool:
    """Whether the rows become fewer, by more than twice what the columns become."""
    return to[0] < given[0] and given[0] - to[0] > 2 * (given[1] - to[1])


@lru_cache(maxsize=1)
def rows_before_columns() -> str | None:
    """When this Pillow takes the vertical pass first: "never" (up to 12) or "steep" (13); None if it is neither, or if
    there is no kernel.
    """
    if not resize.available():
        return None
    return next((order for order in ("steep", "never") if _agrees(order)), None)


def _agrees(order: str) -> bool:
    random = np.random.default_rng(0)
    for given, to in _PROBES:
        pixels = random.integers(0, 256, (*given, 3), dtype=np.uint8)
        for name, pillows in _FILTERS.items():
            wanted = np.asarray(Image.fromarray(pixels).resize((to[1], to[0]), pillows))
            first = order == "steep" and _steep(given, to)
            found = resize.resize(pixels, to, (0, 0, *to), cubic=name == "bicubic", rows_first=first)
            if not np.array_equal(found, wanted):
                return False
    return True
