"""Decide from a file's own structure, before decoding, whether it is a picture that may be decoded."""

from types import ModuleType
from typing import Final

from vitkit.images.errors import DEFAULT_LIMITS, ImageError, Limits
from vitkit.images.formats import avif, bmp, gif, jpeg, png, tiff, webp
from vitkit.images.header import Header

_FORMATS: Final[tuple[ModuleType, ...]] = (jpeg, png, webp, gif, bmp, tiff, avif)
_READ: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF"

#: Pictures that are known and refused: rare decoders are where the holes are.
_REFUSED: Final = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "icon"),
    (b"\0\0\2\0", "cursor"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"DDS ", "DirectDraw surface"),
    (b"icns", "Apple icon"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance"),
    (b"gimp xcf", "GIMP"),
    (b"\x8aMNG", "MNG"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile"),
    (b"P4\n", "portable bitmap"),
    (b"P5\n", "portable graymap"),
    (b"P6\n", "portable pixmap"),
)


def _unknown(data: bytes) -> ImageError:
    """Say what a file is that no format file here claims."""
    if not data:
        return ImageError("not_an_image", "the file is empty")
    for start, name in _REFUSED:
        if data.startswith(start):
            return ImageError("unsupported_format", f"{name} files are not read; {_READ} are")
    if b"<svg" in data[:1024].lower():
        return ImageError("unsupported_format", f"SVG files are not read; {_READ} are")
    return ImageError("not_an_image", f"the file is not a picture; {_READ} are read")


def sniff(data: bytes) -> str | None:
    """The name of the picture format that these first bytes (1 KB is plenty) belong to, refused ones too; else None."""
    for module in _FORMATS:
        if module.sniff(data):
            return module.__name__.rpartition(".")[2].upper()
    return next((name for start, name in _REFUSED if data.startswith(start)), None)


def recognise(data: bytes) -> ModuleType:
    """The format file that claims these first bytes (1 KB is plenty); errors: not_an_image, unsupported_format."""
    for module in _FORMATS:
        if module.sniff(data):
            return module
    raise _unknown(data)


def probe(data: bytes, limits: Limits = DEFAULT_LIMITS, *, allow_truncated: bool = False) -> Header:
    """Walk a picture file without decoding it, and say what it is.

    Costs a few copies of the file in memory and time in proportion to its bytes, whatever the file claims.
    Errors: ImageError with any code of `errors.CODES` but `unreadable`.
    """
    if len(data) > limits.max_bytes:
        raise ImageError("too_large", f"the file has more than {limits.max_bytes} bytes, which is the limit")
    return recognise(data).read(data, limits, allow_truncated)
