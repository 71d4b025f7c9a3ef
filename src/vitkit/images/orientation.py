"""Which way up a picture is: the EXIF orientation, read without trusting the EXIF data around it."""

import struct
from typing import Final

from PIL import Image

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
