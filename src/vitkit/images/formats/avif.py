"""Reads the primary image of AVIF files, and of HEIF files if a Pillow plug-in can decode them.

Sizes are checked twice: in the item properties (ispe), and for AVIF also in the sequence header of the coded image,
because the AV1 decoder allocates memory by that header.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, cast

from PIL import Image, ImageFile, features

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import MAX_PARTS, check_size, corrupt, truncated
from vitkit.images.formats._av1 import frame_sizes
from vitkit.images.formats._boxes import boxes
from vitkit.images.formats._sequence import still_of_sequence
from vitkit.images.header import Format, Header

_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
#: Boxes that contain boxes, and the number of bytes before the first one.
_CONTAINERS: Final = {b"meta": 4, b"iprp": 0}


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of an AVIF or HEIF file."""
    return data[4:8] == b"ftyp" and data[8:12] in _AVIF_BRANDS | _HEIF_BRANDS


def _integer(data: bytes, at: int, size: int) -> tuple[int, int]:
    """Reads an unsigned integer of `size` bytes. Returns the integer and the position after it."""
    if at + size > len(data):
        raise corrupt("an item box of the AVIF or HEIF file is too short")
    return int.from_bytes(data[at : at + size], "big"), at + size


def _extents(data: bytes, found: "_Meta") -> Iterator[tuple[int, int]]:
    """Yields (start, end) of each extent listed in the item location box (ISO/IEC 14496-12, 8.11.3).

    The number of extents is bounded, because an extent may take no bytes in the box.
    """
    box = data[slice(*(found.locations or (0, 0)))]
    version = box[0] if box else 255
    if version > 2 or len(box) < 6:
        raise corrupt("the item location box of the AVIF or HEIF file is too short or has a version above 2")
    sizes = struct.unpack_from(">H", box, 4)[0]
    offset_size, length_size, base_size = sizes >> 12, (sizes >> 8) & 15, (sizes >> 4) & 15
    index_size = sizes & 15 if version else 0
    count, at = _integer(box, 6, 4 if version == 2 else 2)
    total = 0
    for _ in range(count):
        _, at = _integer(box, at, 4 if version == 2 else 2)
        method, at = _integer(box, at, 2 if version else 0)
        _, at = _integer(box, at, 2)
        base, at = _integer(box, at, base_size)
        extents, at = _integer(box, at, 2)
        total += extents
        if total > MAX_PARTS:
            raise corrupt(f"the items of the AVIF or HEIF file have more than {MAX_PARTS} extents")
        start, end = _stored_in(found, method & 15, len(data))
        for _ in range(extents):
            _, at = _integer(box, at, index_size)
            offset, at = _integer(box, at, offset_size)
            length, at = _integer(box, at, length_size)
            first = start + base + offset
            # Length 0 means the rest.
            last = first + length if length else end
            if last > end:
                raise truncated()
            yield first, last


def _stored_in(found: "_Meta", method: int, size: int) -> tuple[int, int]:
    """Returns (start, end) of the data that the offsets of an item refer to: the file or the idat box."""
    if method == 0:
        return 0, size
    if method == 1 and found.data is not None:
        return found.data
    raise ImageError(
        "unsupported_format",
        "AVIF files whose items are stored in other items are not supported; save the image as JPEG or PNG",
    )


def _check_coded_sizes(data: bytes, found: "_Meta", limits: Limits) -> None:
    """Raises ImageError if a coded image exceeds the pixel limit or the size in the item properties."""
    largest = max(width * height for width, height in found.sizes.values())
    ranges = dict.fromkeys(_extents(data, found))  # items may share extents
    if sum(last - first for first, last in ranges) > 2 * len(data):
        raise corrupt("the extents of an item of the AVIF or HEIF file overlap")
    for width, height in frame_sizes(data, ranges):
        check_size(width, height, limits)
        if width * height > largest:
            raise corrupt("the coded AVIF or HEIF image is larger than the size in its item properties")


@dataclass
class _Meta:
    """The item boxes of a file: their positions (start, end), and item properties by number, counted from 1."""

    locations: tuple[int, int] | None = None
    data: tuple[int, int] | None = None
    sequence: tuple[int, int] | None = None
    primary: int | None = None
    associations: tuple[int, int] | None = None
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    apertures: dict[int, tuple[int, int]] = field(default_factory=dict)
    quarter_turns: dict[int, int] = field(default_factory=dict)


def _read_properties(data: bytes, start: int, end: int, found: _Meta) -> None:
    for number, (name, at, stop) in enumerate(boxes(data, start, end, {}), 1):
        if name == b"ispe" and stop - at >= 12:
            found.sizes[number] = struct.unpack_from(">II", data, at + 4)
        elif name == b"clap" and stop - at >= 16:
            columns, by_columns, rows, by_rows = struct.unpack_from(">IIII", data, at)
            found.apertures[number] = columns // max(by_columns, 1), rows // max(by_rows, 1)
        elif name == b"irot" and stop > at:
            found.quarter_turns[number] = data[at] & 3


def _properties_of_primary(data: bytes, found: _Meta) -> list[int]:
    """Returns the property numbers of the primary item (ISO/IEC 23008-12, 9.3.1)."""
    if found.primary is None or found.associations is None:
        return []
    box = data[slice(*found.associations)]
    if len(box) < 8:
        return []
    wide_items, wide_numbers = box[0] >= 1, box[3] & 1
    count, at = _integer(box, 4, 4)
    for _ in range(count):
        item, at = _integer(box, at, 4 if wide_items else 2)
        number, at = _integer(box, at, 1)
        width = 2 if wide_numbers else 1
        if item == found.primary:
            mask = 0x7FFF if wide_numbers else 0x7F
            return [_integer(box, at + i * width, width)[0] & mask for i in range(number)]
        at += number * width
    return []


def heif_decoder() -> type[ImageFile.ImageFile] | None:
    """Returns the HEIF decoder of a registered plug-in or of pillow-heif (the extra `heif`), or None if missing."""
    if "HEIF" in Image.OPEN:
        return cast(type[ImageFile.ImageFile], Image.OPEN["HEIF"][0])
    try:
        from pillow_heif import HeifImageFile  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return HeifImageFile


def _check_decoder(name: Format) -> None:
    """Raises ImageError if no decoder for the format is installed."""
    if name == "AVIF" and not features.check("avif"):
        raise ImageError("unsupported_format", "no decoder for AVIF files is installed; install a newer Pillow")
    if name == "HEIF" and heif_decoder() is None:
        raise ImageError(
            "unsupported_format", "no decoder for HEIF (HEIC) files is installed; run pip install 'vitkit[heif]'"
        )


def _format(data: bytes) -> Format:
    """Returns "AVIF" or "HEIF", from the major brand or, if it is generic (mif1, msf1), the compatible brands."""
    end = min(int.from_bytes(data[:4], "big"), 1024)
    general = data[8:12] in (b"mif1", b"msf1")
    brands = {data[8:12]} | ({data[at : at + 4] for at in range(16, end, 4)} if general else set())
    return "AVIF" if brands & _AVIF_BRANDS else "HEIF"


def _clean(data: bytes, limits: Limits) -> tuple[bytes, _Meta]:
    """Returns a copy of the file without metadata and animation, and a `_Meta` with the item boxes of the file."""
    found = _Meta()
    clean = bytearray(data)
    for name, start, end in boxes(data, 0, len(data), _CONTAINERS):
        if name == b"ftyp":  # an image sequence is read as its primary still image
            clean[start:end] = data[start:end].replace(b"avis", b"avif")
        elif name == b"ipco" and not found.sizes:
            _read_properties(data, start, end, found)
        elif name == b"ipma" and found.associations is None:
            found.associations = start, end
        elif name == b"pitm" and found.primary is None and end - start >= 6:
            found.primary = int.from_bytes(data[start + 4 : min(end, start + (8 if data[start] else 6))], "big")
        elif name == b"iloc" and found.locations is None:
            found.locations = start, end
        elif name == b"idat" and found.data is None:
            found.data = start, end
        elif name == b"moov" and found.sequence is None:
            found.sequence = start, end
            clean[start - 4 : start] = b"free"
        elif name == b"iinf":
            # EXIF and XMP items are renamed to an unknown type, so that they are not parsed.
            items = data[start:end].replace(b"Exif", b"skip").replace(b"mime", b"skip")
            clean[start:end] = items
    if found.locations is None and found.sequence is not None and _format(data) == "AVIF":
        return _clean(still_of_sequence(data, *found.sequence), limits)
    if not found.sizes or found.locations is None:
        raise corrupt("the AVIF or HEIF file does not contain the size or location of its primary image")
    for width, height in found.sizes.values():
        check_size(width, height, limits)
    return bytes(clean), found


def _transformed(width: int, height: int, properties: list[int], found: _Meta) -> tuple[int, int]:
    """Returns the size (width, height) of an image after the crop and rotation that the HEIF decoder applies."""
    for number in properties:
        if number in found.apertures:
            columns, rows = found.apertures[number]
            width, height = min(columns, width), min(rows, height)
        elif found.quarter_turns.get(number, 0) % 2:
            width, height = height, width
    return width, height


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of an AVIF or HEIF file. Truncated files are rejected even with `allow_truncated`."""
    kind = _format(data)
    _check_decoder(kind)
    clean, found = _clean(data, limits)
    if kind == "AVIF":
        _check_coded_sizes(clean, found, limits)
    properties = _properties_of_primary(clean, found)
    # The other sizes are those of tiles, thumbnails and gain maps.
    sizes = [found.sizes[number] for number in properties if number in found.sizes] or list(found.sizes.values())
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    if kind == "HEIF":
        width, height = _transformed(width, height, properties, found)
    return Header(format=kind, width=width, height=height, clean=clean)
