"""What the probe knows of a picture before a single pixel is decoded."""

from dataclasses import dataclass
from typing import Literal

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
