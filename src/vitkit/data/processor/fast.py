"""Resizes and crops with a C kernel, whose results are bit for bit equal to Pillow's."""

from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitkit.data.processor.geometry import MAX_RESIZED, Crop, Interpolation, Size, crop_start
from vitkit.kernels import resize

_FILTERS: Final = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pairs of sizes (rows, columns) for the comparison with Pillow: smaller, larger, mixed, and cases where Pillow 13
# resizes the rows first.
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
    """Resizes and crops like `geometry.resize_and_crop`, or only resizes if `rule` is "none".

    Returns None if it is not supported: other filters, crops larger than the image, very large images, and versions of
    Pillow with other results.
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
    """Returns whether the C kernel can resize RGB images to the size `to` and crop them to `size`."""
    inside = rule == "none" or (to[0] >= size[0] and to[1] >= size[1])
    return name in _FILTERS and inside and to[0] * to[1] <= MAX_RESIZED and rows_before_columns() is not None


def _steep(given: Size, to: Size) -> bool:
    """Returns whether the height shrinks by more than twice as many pixels as the width."""
    return to[0] < given[0] and given[0] - to[0] > 2 * (given[1] - to[1])


@lru_cache(maxsize=1)
def rows_before_columns() -> str | None:
    """Returns when Pillow resizes vertically first: "never", or "steep" (see `_steep`), as in Pillow 13.

    None if results differ from the kernel in both cases, or if there is no kernel.
    """
    if not resize.available():
        return None
    return next((order for order in ("steep", "never") if _equals_pillow(order)), None)


def _equals_pillow(order: str) -> bool:
    random = np.random.default_rng(0)
    for given, to in _PROBES:
        pixels = random.integers(0, 256, (*given, 3), dtype=np.uint8)
        for name, pillow_filter in _FILTERS.items():
            expected = np.asarray(Image.fromarray(pixels).resize((to[1], to[0]), pillow_filter))
            first = order == "steep" and _steep(given, to)
            found = resize.resize(pixels, to, (0, 0, *to), cubic=name == "bicubic", rows_first=first)
            if not np.array_equal(found, expected):
                return False
    return True
