"""Decodes JPEG files with simplejpeg (the extra `fast`) if the pixels are equal to Pillow's.

Pillow copies every row once more. This decoder gets the same cleaned file after the same probe. Files for which it
raises or warns are decoded by Pillow, so that errors and pixels of damaged files are those of Pillow.
"""

import io
from functools import lru_cache
from types import ModuleType
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitkit.images.header import Header

#: Color space of the file -> color space of the result; CMYK is decoded by Pillow.
_COLORS: Final = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}


def decode(header: Header, min_size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w *c"] | None:
    """Decodes a JPEG file to an array (h, w, 3), or (h, w) for grayscale, or returns None if only Pillow can decode it.

    With `min_size` (rows, columns), the image is decoded at a half, a quarter or an eighth of its size if both sides
    are at least that long: fewer coefficients of each block are used, which is faster and changes pixels.
    """
    if header.format != "JPEG" or not header.complete:
        return None
    decoder = equal_decoder()
    size = header.height, header.width
    return None if decoder is None else _decode(decoder, header.clean, size, _divisor(size, min_size))


def _divisor(size: tuple[int, int], min_size: tuple[int, int] | None) -> int:
    """Returns the largest divisor (8, 4, 2 or 1) for which `size` / divisor is at least `min_size`."""
    if min_size is None:
        return 1
    return next((by for by in (8, 4, 2) if size[0] >= by * min_size[0] and size[1] >= by * min_size[1]), 1)


def _decode(decoder: ModuleType, data: bytes, size: tuple[int, int], divisor: int = 1) -> np.ndarray | None:
    try:
        height, width, color, _ = decoder.decode_jpeg_header(data)
        if (height, width) != size or color not in _COLORS:
            return None
        min_size = [(side + divisor - 1) // divisor for side in size]
        smaller = {} if divisor == 1 else {"min_height": min_size[0], "min_width": min_size[1]}
        pixels = decoder.decode_jpeg(data, _COLORS[color], **smaller)
    except Exception:
        # Any error, also an internal one such as KeyError for rare sampling factors: Pillow decides.
        return None
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


@lru_cache(maxsize=1)
def equal_decoder() -> ModuleType | None:
    """Returns the `simplejpeg` module, or None if it is not installed or its pixels differ from Pillow's."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg if _equals_pillow(simplejpeg) else None


def _equals_pillow(decoder: ModuleType) -> bool:
    """Returns whether simplejpeg decodes small test images to exactly the same pixels as Pillow."""
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(43) * 3, np.arange(67) * 2)[..., None] + np.array([0, 60, 120])
    colors = Image.fromarray(((ramp + random.integers(0, 60, ramp.shape)) % 256).astype(np.uint8))
    layouts = [{"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0")] + [{"progressive": True}]
    for image, layout in [*((colors, layout) for layout in layouts), (colors.convert("L"), {})]:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85, **layout)
        expected = np.asarray(Image.open(buffer, formats=("JPEG",)))
        decoded = _decode(decoder, buffer.getvalue(), expected.shape[:2])
        if decoded is None or not np.array_equal(decoded, expected):
            return False
    return True
