"""The header of an image file, which is read before the image is decoded, and the EXIF orientation."""

import struct
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")


CanvasPosition = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of an image file, and a cleaned copy of the file for the decoder.

    `clean` is a file that contains only the pixels of the first frame. Metadata, other frames and trailing bytes are
    removed, so decompression bombs in text chunks, broken EXIF data and manipulated animations never reach the decoder,
    and it does not warn. The required metadata is in the other fields.

    width, height    in pixels, before `orientation` is applied
    frames           number of frames, counted up to one more than the limit
    orientation      EXIF orientation, 1 to 8
    profile          embedded ICC profile
    transparency     transparent color of a PNG (one value per channel, in units of the file), alpha table of a palette
                     PNG, or transparent index of a GIF
    bits             bits per sample in the file
    signed           samples are signed integers
    inverted         0 is white, which the decoder does not handle
    canvas_position  (left, top, canvas width, canvas height) if the first frame covers only a part of its canvas
    misread          the decoder does not restore the byte order of the samples of a TIFF file
    complete         False if a JPEG has no end marker; only decoding shows whether pixels are missing
    """

    format: Format
    width: int
    height: int
    clean: bytes
    frames: int = 1
    orientation: int = 1
    profile: bytes | None = None
    transparency: tuple[int, ...] | None = None
    bits: int = 8
    signed: bool = False
    inverted: bool = False
    canvas_position: CanvasPosition | None = None
    misread: bool = False
    complete: bool = True


_ORIENTATION_TAG: Final = 0x0112
#: Byte, short, long, signed byte, signed short, signed long -> format; writers use all of them for small integers.
_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}

#: EXIF orientation -> operation that makes the stored pixels upright (EXIF 2.3, section 4.6.4 A).
_OPERATIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(exif: bytes) -> int:
    """Returns the EXIF orientation (1 to 8) in EXIF data, or 1 if it is missing or invalid.

    Only this tag of the first directory is read, so hostile EXIF data has no cost.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", exif, at)
        if tag == _ORIENTATION_TAG:
            if kind not in _INTEGERS or number != 1:
                return 1
            (value,) = struct.unpack_from(order + _INTEGERS[kind], exif, at + 8)
            return value if 1 <= value <= 8 else 1
    return 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Rotates and flips an image according to its EXIF orientation."""
    operation = _OPERATIONS.get(orientation)
    return image if operation is None else image.transpose(operation)
