"""What the probe knows of a picture before a single pixel is decoded."""

import struct
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")


Placed = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Header:
    """A probed picture: its true size, and the bytes that the decoder gets.

    `clean` is the file reduced to what the first frame's pixels need. Metadata, other frames and trailing bytes are
    left out, so text bombs, broken EXIF and animation tricks never reach the decoder, and it has nothing to warn
    about. What the contract needs of the metadata is in the other fields.

    width, height  in pixels, before `orientation` is applied
    frames         as many as were counted, at most one more than the limit
    orientation    EXIF orientation, 1 to 8
    profile        the embedded ICC profile
    transparency   the colour key of a PNG (one value for each channel, in file units), the alpha table of a palette
                   PNG, or the index of a GIF
    bits           bits for each sample in the file
    signed         samples are signed whole numbers
    inverted       0 is white, and the decoder does not know
    placed         (left, top, canvas width, canvas height) when the first frame covers only a part of its canvas
    complete       False when a JPEG has no end marker, so that only decoding shows whether all pixels are there
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
    placed: Placed | None = None
    complete: bool = True


_ORIENTATION_TAG: Final = 0x0112
_SHORT: Final = 3

#: EXIF orientation -> the operation that turns the stored pixels upright (EXIF 2.3, section 4.6.4 A).
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in a block of EXIF data; 1 where the data are absent, broken or out of range.

    Only the first directory is looked at and nothing in it but this one tag, so hostile EXIF costs nothing.
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
        tag, kind, number, value = struct.unpack_from(order + "HHIH", exif, at)
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and number == 1 and 1 <= value <= 8 else 1
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned and mirrored as its EXIF orientation says."""
    operation = _UPRIGHT.get(orientation)
    return image if operation is None else image.transpose(operation)
