"""JPEG pixels straight from libjpeg-turbo (simplejpeg, the extra `fast`), for as long as they are Pillow's bit for bit.

Pillow copies every row once more than needed on its way. This decoder gets the same cleaned bytes after the same probe;
what it so much as warns of goes to Pillow, so that errors, and pictures of damaged files, are Pillow's.
"""

import io
from functools import lru_cache
from types import ModuleType
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitkit.images.header import Header

#: The colours of a file to those it is decoded to, as Pillow keeps them; CMYK is left to Pillow.
_COLORS: Final = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}


def decode(header: Header, least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "h w *c"] | None:
    """The pixels (h, w, 3), or (h, w) of a grey picture; None where Pillow has to decode.

    With `least` (rows, columns) the picture is decoded at a half, a quarter or an eighth of its size where both sides
    stay at least that long: fewer coefficients of each block are used, which is faster, and other pixels.
    """
    if header.format != "JPEG" or not header.complete:
        return None
    decoder = equal_decoder()
    size = header.height, header.width
    return None if decoder is None else _decode(decoder, header.clean, size, _fraction(size, least))


def _fraction(size: tuple[int, int], least: tuple[int, int] | None) -> int:
    """The largest divisor that a decoder has and that leaves a picture of `size` at least so large; 1 for none."""
    if least is None:
        return 1
    return next((by for by in (8, 4, 2) if size[0] >= by * least[0] and size[1] >= by * least[1]), 1)


def _decode(decoder: ModuleType, data: bytes, size: tuple[int, int], fraction: int = 1) -> np.ndarray | None:
    try:
        height, width, color, _ = decoder.decode_jpeg_header(data)
        if (height, width) != size or color not in _COLORS:
            return None
        least = [(side + fraction - 1) // fraction for side in size]
        smaller = {} if fraction == 1 else {"min_height": least[0], "min_width": least[1]}
        pixels = decoder.decode_jpeg(data, _COLORS[color], **smaller)
    except (ValueError, MemoryError, RuntimeError):
        return None
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


@lru_cache(maxsize=1)
def equal_decoder() -> ModuleType | None:
    """simplejpeg, where it is installed and decodes as this Pillow does; None elsewhere."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg if _agrees(simplejpeg) else None


def _agrees(decoder: ModuleType) -> bool:
    """Whether a few small pictures of every usual layout come out the same: two builds of the library may differ."""
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(43) * 3, np.arange(67) * 2)[..., None] + np.array([0, 60, 120])
    colors = Image.fromarray(((ramp + random.integers(0, 60, ramp.shape)) % 256).astype(np.uint8))
    layouts = [{"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0")] + [{"progressive": True}]
    for picture, layout in [*((colors, layout) for layout in layouts), (colors.convert("L"), {})]:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85, **layout)
        wanted = np.asarray(Image.open(buffer, formats=("JPEG",)))
        given = _decode(decoder, buffer.getvalue(), wanted.shape[:2])
        if given is None or not np.array_equal(given, wanted):
            return False
    return True
