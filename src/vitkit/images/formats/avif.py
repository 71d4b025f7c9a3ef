"""AVIF, and HEIF if a plug-in provides a decoder for Pillow: the primary image of an ISO base media file.

Sizes are checked twice: in the item properties (ispe), and for AVIF also in the sequence header of the coded image,
because the AV1 decoder allocates memory by that header.
"""

import struct
from collections.abc import Iterator
from typing import Final

from PIL import Image, features

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import MAX_PARTS, check_size, corrupt, truncated
from vitkit.images.formats._av1 import frame_sizes
from vitkit.images.header import Format, Header

_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
#: Boxes that contain boxes, and the number of bytes before the first one.
_CONTAINERS: Final = {b"meta": 4, b"iprp": 0, b"ipco": 0}


def sniff(data: bytes) -> bool:
    """Return whether the first bytes are those of a AVIF file."""
    return data[4:8] == b"ftyp" and data[8:12] in _AVIF_BRANDS | _HEIF_BRANDS


def _boxes(data: bytes, start: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start of the payload, end of the payload) of each box, including nested boxes."""
    at = start
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, at)
        payload = at + 8
        if length == 1:
            if payload + 8 > end:
                raise truncated()
            (length,) = struct.unpack_from(">Q", data, payload)
            payload += 8
        elif length == 0:
            length = end - at
        if at + length > end:
            raise truncated()
        if length < payload - at:
            raise corrupt("a box is shorter than its own header")
        yield name, payload, at + length
        if name in _CONTAINERS and depth < 4:
            yield from _boxes(data, payload + _CONTAINERS[name], at + length, depth + 1)
        at += length
    raise corrupt(f"more than {MAX_PARTS} boxes")


def _integer(data: bytes, at: int, size: int) -> tuple[int, int]:
    """Read an unsigned integer of `size` bytes (0, 4 or 8 in iloc); return it and the next position."""
    if at + size > len(data):
        raise corrupt("the item locations are too short")
    return int.from_bytes(data[at : at + size], "big"), at + size


def _extents(box: bytes) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of each extent in the item location box (ISO/IEC 14496-12, 8.11.3)."""
    version = box[0] if box else 255
    if version > 2 or len(box) < 6:
        raise corrupt("the item locations have an unknown version")
    sizes = struct.unpack_from(">H", box, 4)[0]
    offset_size, length_size, base_size = sizes >> 12, (sizes >> 8) & 15, (sizes >> 4) & 15
    index_size = sizes & 15 if version else 0
    count, at = _integer(box, 6, 4 if version == 2 else 2)
    for _ in range(count):
        _, at = _integer(box, at, 4 if version == 2 else 2)
        method, at = _integer(box, at, 2 if version else 0)
        _, at = _integer(box, at, 2)
        base, at = _integer(box, at, base_size)
        extents, at = _integer(box, at, 2)
        if method & 15:
            raise ImageError("unsupported_format", "an AVIF file whose image is not stored contiguously")
        for _ in range(extents):
            _, at = _integer(box, at, index_size)
            offset, at = _integer(box, at, offset_size)
            length, at = _integer(box, at, length_size)
            yield base + offset, length


def _check_coded_sizes(data: bytes, locations: bytes, largest: int, limits: Limits) -> None:
    """Check the size of every coded image against the limit and the sizes in the properties."""
    total = 0
    for offset, length in _extents(locations):
        if offset + length > len(data):
            raise truncated()
        total += length
        if total > len(data):
            raise corrupt("its extents overlap")
        for width, height in frame_sizes(data[offset : offset + (length or len(data))]):
            check_size(width, height, limits)
            if width * height > largest:
                raise corrupt("the coded image is larger than the size in the properties")


def _check_decoder(name: Format) -> None:
    """Raise ImageError if Pillow has no decoder for the format."""
    available = features.check("avif") if name == "AVIF" else name in Image.OPEN
    if not available:
        raise ImageError("unsupported_format", f"no decoder for {name} files is installed")


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Read the header of an AVIF or HEIF file. Truncated files are rejected even with `allow_truncated`."""
    kind: Format = "AVIF" if data[8:12] in _AVIF_BRANDS else "HEIF"
    _check_decoder(kind)
    sizes: list[tuple[int, int]] = []
    locations = b""
    clean = bytearray(data)
    for name, start, end in _boxes(data, 0, len(data)):
        if name == b"ftyp":  # an image sequence is read as its primary still image
            clean[start:end] = data[start:end].replace(b"avis", b"avif")
        elif name == b"ispe" and end - start >= 12:
            sizes.append(struct.unpack_from(">II", data, start + 4))
        elif name == b"iloc" and not locations:
            locations = data[start:end]
        elif name == b"moov":
            clean[start - 4 : start] = b"free"
        elif name == b"iinf":
            # EXIF and XMP items are renamed to an unknown type, so that they are not parsed.
            items = data[start:end].replace(b"Exif", b"skip").replace(b"mime", b"skip")
            clean[start:end] = items
    if not sizes or not locations:
        raise corrupt("the size or the location of the image is missing")
    for width, height in sizes:
        check_size(width, height, limits)
    if kind == "AVIF":
        _check_coded_sizes(data, locations, max(width * height for width, height in sizes), limits)
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(format=kind, width=width, height=height, clean=bytes(clean))
