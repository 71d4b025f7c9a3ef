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


def decode(header: Header) -> UInt8[np.ndarray, "h w *c"] | None:
    """The pixels (h, w, 3), or (h, w) of a grey picture; None where Pillow has to decode."""
    if header.format != "JPEG" or not header.complete:
        return None
    decoder = equal_decoder()
    return None if decoder is None else _decode(decoder, header.clean, (header.height, header.width))


def _decode(decoder: ModuleType, data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    try:
        height, width, color, _ = decoder.decode_jpeg_header(data)
        if (height, width) != size or color not in _COLORS:
            return None
        pixels = decoder.decode_jpeg(data, _COLORS[color])
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
