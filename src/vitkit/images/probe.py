"""Detects the format of an image file and checks the structure of the file before it is decoded."""

from types import ModuleType
from typing import Final

from vitkit.images.errors import DEFAULT_LIMITS, ImageError, Limits
from vitkit.images.formats import avif, bmp, gif, jpeg, png, tiff, webp
from vitkit.images.header import Header

_FORMATS: Final[tuple[ModuleType, ...]] = (jpeg, png, webp, gif, bmp, tiff, avif)
_SUPPORTED: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"

#: Known formats that are rejected, because rare decoders are a security risk.
_UNSUPPORTED: Final = (
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


#: Image types of a TGA file: with a color map, RGB, gray, and the same with run-length encoding.
_TGA_TYPES: Final = frozenset({1, 2, 3, 9, 10, 11})


def _is_tga(data: bytes) -> bool:
    """Returns whether the first bytes may be a TGA header. TGA has no signature, so every field is checked."""
    if len(data) < 18 or data[1] > 1 or data[2] not in _TGA_TYPES or data[16] not in (8, 15, 16, 24, 32):
        return False
    has_map = data[1] == 1
    if has_map != (data[2] in (1, 9)) or (not has_map and any(data[3:8])):
        return False
    return any(data[12:14]) and any(data[14:16]) and data[17] < 64


def _unsupported_name(data: bytes) -> str | None:
    """Returns the name of the unsupported image format that these first bytes belong to, or None if unknown."""
    # Before the other formats, because an uncompressed TGA file begins like a cursor.
    if _is_tga(data):
        return "TGA"
    return next((name for start, name in _UNSUPPORTED if data.startswith(start)), None)


def _unknown(data: bytes) -> ImageError:
    """Returns the error for a file whose format is not supported."""
    if not data:
        return ImageError("not_an_image", "the file is empty")
    name = _unsupported_name(data)
    if name is not None:
        return ImageError("unsupported_format", f"{name} files are not supported; use {_SUPPORTED}")
    if b"<svg" in data[:1024].lower():
        return ImageError("unsupported_format", f"SVG files are not supported; use {_SUPPORTED}")
    return ImageError("not_an_image", f"the file is not an image; expected {_SUPPORTED}")


def sniff(data: bytes) -> str | None:
    """Returns the name of the image format of these first bytes (1 KB is enough), or None if unknown."""
    for module in _FORMATS:
        if module.sniff(data):
            return module.__name__.rpartition(".")[2].upper()
    return _unsupported_name(data)


def detect_format(data: bytes) -> ModuleType:
    """Returns the module that parses the image format of these first bytes (1 KB is enough).

    Raises ImageError with the code not_an_image or unsupported_format.
    """
    for module in _FORMATS:
        if module.sniff(data):
            return module
    raise _unknown(data)


def check_bytes(size: int, limits: Limits) -> None:
    """Raises ImageError (too_large) if a file has more bytes than the limit."""
    if size > limits.max_bytes:
        raise ImageError("too_large", f"the image file is too large; the limit max_bytes is {limits.max_bytes} bytes")


def probe(data: bytes, limits: Limits = DEFAULT_LIMITS, *, allow_truncated: bool = False) -> Header:
    """Parses the structure of an image file without decoding it.

    Memory is a few copies of the file, time is proportional to its size, whatever the file states. Raises ImageError
    with any code of `errors.CODES` except `unreadable`.
    """
    check_bytes(len(data), limits)
    return detect_format(data).read(data, limits, allow_truncated)
