"""TIFF 6.0 files, first page only. The directory is checked and rewritten for the decoder."""

import contextlib
import ctypes
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import PIL

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import MAX_PARTS, MAX_PROFILE, check_frames, check_size, corrupt, truncated
from vitkit.images.header import Header

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR = 273, 274, 277, 278, 279, 284
_GROUP3, _GROUP4, _PREDICTOR, _COLOR_MAP = 292, 293, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
_JPEG_TABLES, _SUBSAMPLING, _POSITIONING, _PROFILE = 347, 530, 531, 34675

#: Tags for the storage of the pixels; the decoder gets only these.
_PIXEL_TAGS: Final = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP}
    | {_STRIP_SIZES, _PLANAR, _GROUP3, _GROUP4, _PREDICTOR, _COLOR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS}
    | {_TILE_SIZES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES, _SUBSAMPLING, _POSITIONING}
)
#: Maximum number of bands of a file; cameras with hundreds of bands have 224 or fewer.
MAX_BANDS: Final = 256
#: Tags with several values and their maximum number; other tags are reduced to the first, because the decoder warns of
#: more. Tags may share their bytes, so the numbers also bound the memory that a small file can ask for.
_LISTS: Final = {
    **dict.fromkeys((_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES, _JPEG_TABLES), MAX_PARTS),
    **dict.fromkeys((_BITS, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING), MAX_BANDS),
    _COLOR_MAP: 3 * 256,
}
#: Maximum expansion by compression: none, fax codes, LZW, JPEG, Deflate, PackBits.
_EXPANSION: Final = {1: 1, 2: None, 3: None, 4: None, 5: 4096, 7: 1024, 8: 1032, 32773: 64, 32946: 1032}
_TYPE_FORMATS: Final = {1: "B", 3: "H", 4: "I", 7: "B"}
_Tags = dict[int, Sequence[int]]
#: Letters of numpy's types for the values of `_SAMPLE_FORMAT`.
_SAMPLE_KINDS: Final = {1: "u", 2: "i", 3: "f"}
_JPEG: Final = 7


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a TIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _values(data: bytes, order: str, entry: int) -> Sequence[int] | None:
    """Returns the values of a directory entry, or None for an optional entry whose values are outside the file.

    Raises ImageError for more values than the tag may have, before they are read.
    """
    tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
    code = _TYPE_FORMATS.get(kind)
    if code is None or number == 0 or (tag == _JPEG_TABLES and code != "B"):
        raise corrupt(f"TIFF tag {tag} has no values or values of the wrong type")
    size = struct.calcsize(code) * number
    position = entry + 8 if size <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
    if position + size > len(data):
        if tag in (_ORIENTATION, _PROFILE):
            return None
        raise truncated()
    if tag == _PROFILE:
        return (position, size) if code == "B" and size <= MAX_PROFILE else None
    most = _LISTS.get(tag, number)
    if number > most:
        raise corrupt(f"TIFF tag {tag} has more than {most} values")
    # An array takes a tenth of the memory of a tuple.
    values = array(code)
    values.frombytes(data[position : position + (size if tag in _LISTS else size // number)])
    if (order == "<") != (sys.byteorder == "little"):
        values.byteswap()
    return values


def _read_directory(data: bytes, order: str, at: int) -> tuple[_Tags, int]:
    """Returns the tags with integer values in the directory at a position, and the position of the next directory.

    The profile is returned as its position and size.
    """
    if at + 2 > len(data):
        raise truncated()
    (count,) = struct.unpack_from(order + "H", data, at)
    if at + 2 + 12 * count > len(data):
        raise truncated()
    tags: _Tags = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(order + "H", data, entry)
        if tag not in _PIXEL_TAGS and tag not in (_ORIENTATION, _PROFILE):
            continue
        if tag in tags:
            raise corrupt(f"TIFF tag {tag} appears twice")
        values = _values(data, order, entry)
        if values is not None:
            tags[tag] = values
    following = at + 2 + 12 * count
    return tags, struct.unpack_from(order + "I", data, following)[0] if following + 4 <= len(data) else 0


def _count_pages(data: bytes, order: str, at: int, limits: Limits) -> int:
    """Counts the pages by following the chain of directories. A cyclic chain ends the count."""
    seen: set[int] = set()
    while at and at not in seen and at + 2 <= len(data) and len(seen) < limits.max_frames:
        seen.add(at)
        following = at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0]
        at = struct.unpack_from(order + "I", data, following)[0] if following + 4 <= len(data) else 0
    return 1 + len(seen)


def _one(tags: Mapping[int, Sequence[int]], tag: int, default: int | None = None) -> int:
    values = tags.get(tag)
    if values is None:
        if default is None:
            raise corrupt(f"the required TIFF tag {tag} is missing")
        return default
    return values[0]


def _tile_shape(tags: _Tags, width: int, height: int, limits: Limits) -> tuple[int, int, int, int]:
    """Returns the two tags with the offsets and sizes of strips or tiles, and the width and height of a tile.

    Old writers store the tiles under the tags of strips; they are moved to those of tiles.
    """
    if _TILE_WIDTH in tags:
        for strip_tag, tile_tag in ((_STRIP_OFFSETS, _TILE_OFFSETS), (_STRIP_SIZES, _TILE_SIZES)):
            values = tags.pop(strip_tag, None)
            if values is not None:
                tags.setdefault(tile_tag, values)
    if _TILE_OFFSETS not in tags:
        rows = min(_one(tags, _ROWS_PER_STRIP, height), height)
        if rows < 1:
            raise corrupt("the strips have no rows (TIFF tag RowsPerStrip is 0)")
        return _STRIP_OFFSETS, _STRIP_SIZES, width, rows
    tile_width, tile_height = _one(tags, _TILE_WIDTH), _one(tags, _TILE_HEIGHT)
    if tile_width % 16 or tile_height % 16:
        raise corrupt(f"a TIFF tile has {tile_width} x {tile_height} pixels; both sides must be multiples of 16")
    check_size(tile_width, tile_height, limits)
    return _TILE_OFFSETS, _TILE_SIZES, tile_width, tile_height


def _check_tiles(data: bytes, tags: _Tags, bits_per_pixel: int, limits: Limits) -> None:
    """Raises ImageError if the offsets or sizes of strips or tiles do not fit the file or the image size."""
    width, height, compression = _one(tags, _WIDTH), _one(tags, _HEIGHT), _one(tags, _COMPRESSION, 1)
    offset_tag, size_tag, tile_width, tile_height = _tile_shape(tags, width, height, limits)
    planes = _one(tags, _SAMPLES, 1) if _one(tags, _PLANAR, 1) == 2 else 1
    tiles = -(-width // tile_width) * -(-height // tile_height) * planes
    offsets = tags.get(offset_tag, ())
    if len(offsets) < tiles:
        raise corrupt(f"the TIFF image needs {tiles} strips or tiles, but the file has {len(offsets)}")
    row_bytes = -(-tile_width * bits_per_pixel // (8 * planes))
    sizes = tags.get(size_tag)
    if sizes is None:
        if compression != 1:
            raise corrupt("the sizes of the TIFF strips are missing")
        sizes = tuple(row_bytes * min(tile_height, height - i * tile_height) for i in range(tiles))
        tags[size_tag] = sizes
    if len(sizes) < tiles:
        raise corrupt("the sizes of some TIFF strips are missing")
    offsets, sizes = offsets[:tiles], sizes[:tiles]
    if any(offset + size > len(data) for offset, size in zip(offsets, sizes, strict=True)):
        raise truncated()
    # Overlapping strips would allow a small file to take unlimited time.
    if sum(sizes) > len(data):
        raise corrupt("two strips or tiles of the TIFF file overlap")
    expansion, wanted = _EXPANSION[compression], -(-width * height * bits_per_pixel // 8)
    if expansion is not None and sum(sizes) * expansion < wanted:
        raise truncated()
    tags[offset_tag], tags[size_tag] = offsets, sizes


def _rewrite(data: bytes, order: str, tags: _Tags) -> bytes:
    """Returns the file with a new, single directory at the end, which contains only the tags needed for the pixels."""
    body = bytearray(data)
    body += b"\0" * (len(data) & 1)
    entries = []
    for tag in sorted(tags.keys() & _PIXEL_TAGS):
        values = tags[tag]
        kind = 7 if tag == _JPEG_TABLES else 3 if max(values) < 65_536 else 4
        packed = struct.pack(f"{order}{len(values)}{_TYPE_FORMATS[kind]}", *values)
        if len(packed) > 4:
            position = len(body)
            body += packed + b"\0" * (len(packed) & 1)
            packed = struct.pack(order + "I", position)
        entries.append(struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0"))
    struct.pack_into(order + "I", body, 4, len(body))
    body += struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    return bytes(body)


def _pixel_bits(tags: _Tags, most: int = 8) -> int:
    """Returns the number of bits per pixel. Raises ImageError if a pixel has more than `most` samples."""
    samples, bits = _one(tags, _SAMPLES, 1), tags.get(_BITS, (1,))
    if not 1 <= samples <= most:
        raise ImageError("unsupported_format", f"the TIFF file has {samples} samples per pixel; expected 1 to {most}")
    if invalid := [depth for depth in bits if not 1 <= depth <= 64]:
        raise corrupt(f"the number of bits per sample of the TIFF file is {invalid[0]}; it must be between 1 and 64")
    return sum(bits[:samples]) if len(bits) >= samples else bits[0] * samples


def _first_page(data: bytes, limits: Limits) -> tuple[_Tags, str, int]:
    """Returns the tags of the first page, the byte order and the number of pages."""
    if data[2] == 43 or data[3] == 43:
        raise ImageError("unsupported_format", "BigTIFF files are not supported; save the image as TIFF, JPEG or PNG")
    if len(data) < 8:
        raise truncated()
    order = "<" if data[:2] == b"II" else ">"
    tags, following = _read_directory(data, order, struct.unpack_from(order + "I", data, 4)[0])
    width, height = _one(tags, _WIDTH), _one(tags, _HEIGHT)
    check_size(width, height, limits)
    compression = _one(tags, _COMPRESSION, 1)
    if compression not in _EXPANSION:
        raise ImageError(
            "unsupported_format",
            f"TIFF compression method {compression} is not supported; save the image with LZW or no compression",
        )
    frames = _count_pages(data, order, following, limits)
    check_frames(frames, limits)
    return tags, order, frames


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of a TIFF file. Truncated files are rejected, because the directory is often at the end."""
    tags, order, frames = _first_page(data, limits)
    _check_tiles(data, tags, _pixel_bits(tags), limits)
    depth, photometric = tags.get(_BITS, (1,))[0], _one(tags, _PHOTOMETRIC, 0)
    sample_format, orientation = _one(tags, _SAMPLE_FORMAT, 1), _one(tags, _ORIENTATION, 1)
    profile_at, profile_size = tags.get(_PROFILE, (0, 0))
    return Header(
        format="TIFF",
        width=_one(tags, _WIDTH),
        height=_one(tags, _HEIGHT),
        clean=_rewrite(data, order, tags),
        frames=frames,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        profile=data[profile_at : profile_at + profile_size] or None,
        bits=depth,
        signed=sample_format == 2,
        # Up to 8 bits, the decoder handles white-is-zero itself.
        inverted=photometric == 0 and depth > 8,
        # Pillow takes big-endian values that libtiff has swapped for big-endian ones, and lacks unsigned 32 bits.
        misread=order == ">"
        and (_one(tags, _SAMPLES, 1), photometric in (0, 1)) == (1, True)
        and (depth, sample_format) in ((16, 2), (32, 1), (32, 2), (32, 3))
        and (_one(tags, _COMPRESSION, 1) in (5, 8, 32773, 32946) or (depth, sample_format) == (32, 1)),
    )


@dataclass(frozen=True, kw_only=True)
class BandFile:
    """The bands of the first page of a TIFF file, repacked as grayscale files that the decoder can read.

    A grayscale file has one pixel per byte of the samples. So the decoder only decompresses, for every type and number
    of samples and both byte orders.

    width, height  size of the image in pixels
    orientation    EXIF orientation, 1 to 8
    dtype          type of a sample, in the byte order of the file
    bands          number of bands
    planar         each band has a file of its own; otherwise one file has the samples of each pixel side by side
    columns        columns in a row of a strip (the image width) or tile
    predictor      1 for none, 2 for differences to the left pixel, 3 the same for the bytes of floats
    inverted       0 is white
    alpha          an extra sample is alpha
    files          the grayscale files, one after the other
    """

    width: int
    height: int
    orientation: int
    dtype: np.dtype
    bands: int
    planar: bool
    columns: int
    predictor: int
    inverted: bool
    alpha: bool
    files: Iterator[Header]


def read_bands(data: bytes, limits: Limits) -> BandFile | None:
    """Reads the header of a TIFF file with any number of bands. Returns None for palette, CMYK, YCbCr and Lab files.

    These are palettes, CMYK, YCbCr and Lab. `max_pixels` limits width x height x bands. Raises ImageError.
    """
    tags, order, _ = _first_page(data, limits)
    if _one(tags, _PHOTOMETRIC, 1) not in (0, 1, 2):
        return None
    bits, bands, dtype = _pixel_bits(tags, MAX_BANDS), _one(tags, _SAMPLES, 1), _sample_type(tags, order)
    planar, compression = bands == 1 or _one(tags, _PLANAR, 1) == 2, _one(tags, _COMPRESSION, 1)
    if compression in (2, 3, 4) or (compression == _JPEG and not (planar and dtype.itemsize == 1)):
        raise ImageError(
            "unsupported_format",
            f"TIFF compression method {compression} is not supported for {bands} bands; use LZW or no compression",
        )
    width, height, orientation = _one(tags, _WIDTH), _one(tags, _HEIGHT), _one(tags, _ORIENTATION, 1)
    _check_tiles(data, tags, bits, limits)
    columns = _one(tags, _TILE_WIDTH) if _TILE_OFFSETS in tags else width
    padded = -(-width // columns) * columns
    if padded * height * bands > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the image has {width} x {height} pixels of {bands} bands; the limit max_pixels, which counts every band, "
            f"is {limits.max_pixels}",
        )
    return BandFile(
        width=width,
        height=height,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        dtype=dtype,
        bands=bands,
        planar=planar,
        columns=columns,
        predictor=_one(tags, _PREDICTOR, 1) if compression in (5, 8, 32946) else 1,
        inverted=_one(tags, _PHOTOMETRIC, 1) == 0,
        alpha=not {1, 2}.isdisjoint(tags.get(_EXTRA_SAMPLES, ())),
        files=_band_files(data, order, tags, (padded, height, dtype.itemsize * (1 if planar else bands))),
    )


def _sample_type(tags: _Tags, order: str) -> np.dtype:
    """Returns the dtype of the samples. Raises ImageError if samples differ in type or are not whole bytes."""
    bits, kinds = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (1,)))
    depth, kind = max(bits), _SAMPLE_KINDS.get(max(kinds))
    if len(bits) > 1 or len(kinds) > 1 or kind is None or depth not in ((16, 32, 64) if kind == "f" else (8, 16, 32)):
        found = ", ".join(map(str, sorted(bits)[:4]))
        raise ImageError(
            "unsupported_format",
            f"the bands of the TIFF file have {found} bits per sample; expected one data type: integers of 8, 16 or 32 "
            "bits, or floating-point numbers of 16, 32 or 64 bits",
        )
    return np.dtype(f"{order}{kind}{depth // 8}")


def _band_files(data: bytes, order: str, tags: _Tags, shape: tuple[int, int, int]) -> Iterator[Header]:
    """Yields the grayscale files of the bands. `shape` is the width, the height and the number of bytes per pixel."""
    width, height, size = shape
    tiled = _TILE_OFFSETS in tags
    at, sizes = (_TILE_OFFSETS, _TILE_SIZES) if tiled else (_STRIP_OFFSETS, _STRIP_SIZES)
    planes = _one(tags, _SAMPLES, 1) if _one(tags, _PLANAR, 1) == 2 else 1
    parts = len(tags[at]) // planes
    kept = {tag: tags[tag] for tag in (_COMPRESSION, _FILL_ORDER, _ROWS_PER_STRIP, _JPEG_TABLES) if tag in tags}
    kept |= {_WIDTH: (width * size,), _HEIGHT: (height,), _BITS: (8,), _PHOTOMETRIC: (1,), _SAMPLES: (1,)}
    kept |= {_TILE_WIDTH: (tags[_TILE_WIDTH][0] * size,), _TILE_HEIGHT: tags[_TILE_HEIGHT]} if tiled else {}
    for plane in range(planes):
        part = slice(plane * parts, (plane + 1) * parts)
        body, positions = bytearray(data[:8]), []
        for offset, count in zip(tags[at][part], tags[sizes][part], strict=True):
            positions.append(len(body))
            body += data[offset : offset + count]
        clean = _rewrite(bytes(body), order, {**kept, at: positions, sizes: tags[sizes][part]})
        yield Header(format="TIFF", width=width * size, height=height, clean=clean)


#: Positions of the library in the wheels of Pillow for Linux, macOS and Windows.
_LIBRARIES = ("../pillow.libs/libtiff-*.so*", ".dylibs/libtiff*.dylib", "../pillow.libs/*tiff*.dll")


@cache
def silence_libtiff() -> bool:
    """Stops libtiff from printing to standard error. Returns False if the library is not found.

    libtiff prints a line with contents of the file for every damaged file, and Pillow has no option for that. The error
    handler is disabled in the library inside the wheel of Pillow, for the process; errors are still reported to Pillow.
    """
    for package in PIL.__path__:
        for pattern in _LIBRARIES:
            for path in Path(package).parent.glob(f"{Path(package).name}/{pattern}"):
                with contextlib.suppress(OSError, AttributeError):
                    library = ctypes.CDLL(str(path.resolve()))
                    library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
                    library.TIFFSetErrorHandler.restype = ctypes.c_void_p
                    library.TIFFSetErrorHandler(None)
                    return True
    return False
