"""Hostile image files of up to 20 MB that ask for much time or memory; each is generated when it is needed."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from image_files import chunk, jpeg
from unusual_files import box

SIZE = 19_000_000
#: Start of the item locations of one item with one extent, whose offset and length follow.
_ONE_ITEM = b"\1\0\0\0\x44\0\0\1\0\1\0\0\0\0\0\1"


def tiff_shared_lists() -> bytes:
    """Return a TIFF file whose list tags have 19 million values each, which share their bytes."""
    lists = (258, 273, 279, 320, 324, 325, 338, 339, 347, 530, 34675)
    start = 8 + 2 + 12 * (len(lists) + 2) + 4
    entries = {256: (3, 1, 16), 257: (3, 1, 16), **dict.fromkeys(lists, (1, SIZE, start))}
    directory = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + b"\x01\x7f" * (SIZE // 2)


def tiff_longest_lists() -> bytes:
    """Return a TIFF file whose list tags have as many values as they may, of four bytes each."""
    most = {273: 65_536, 279: 65_536, 324: 65_536, 325: 65_536, 258: 64, 338: 64, 339: 64, 320: 768}
    start = 8 + 2 + 12 * (len(most) + 2) + 4
    entries = {256: (3, 1, 16), 257: (3, 1, 16), **{tag: (4, number, start) for tag, number in most.items()}}
    directory = b"".join(struct.pack("<HHII", tag, *entries[tag]) for tag in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + b"\x01\x7f\x33\x44" * 65_536


def gif_empty_chains() -> bytes:
    """Return a GIF file of six million extensions without data."""
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x21\xfe\x00" * (SIZE // 3)


def png_wrong_sum() -> bytes:
    """Return a PNG file of 19 MB whose pixels have a wrong checksum."""
    lines = np.random.default_rng(0).integers(0, 256, (2500, 1 + 2530 * 3), dtype=np.uint8)
    lines[:, 0] = 0
    pixels = chunk(b"IDAT", zlib.compress(lines.tobytes(), 0))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2530, 2500, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + pixels[:-1] + bytes([pixels[-1] ^ 1]) + chunk(b"IEND", b"")


def _avif(locations: bytes, payload: bytes = b"", side: int = 8) -> bytes:
    size = box(b"iprp", box(b"ipco", box(b"ispe", bytes(4), struct.pack(">II", side, side))))
    head = box(b"ftyp", b"avif\0\0\0\0") + box(b"meta", bytes(4), box(b"iloc", locations), size)
    return head + box(b"mdat", payload)


def avif_empty_extents() -> bytes:
    """Return an AVIF file of 1,000 items with 65,535 extents each, which take no bytes."""
    items = b"".join(struct.pack(">HHHH", number, 0, 0, 65_535) for number in range(1, 1001))
    return _avif(b"\1\0\0\0\0\0" + struct.pack(">H", 1000) + items)


def avif_empty_units() -> bytes:
    """Return an AVIF file of one item of 65,000 empty units."""
    return _avif(_ONE_ITEM + struct.pack(">II", len(_avif(_ONE_ITEM + bytes(8))), 130_000), b"\x12\0" * 65_000)


def avif_shared_units() -> bytes:
    """Return an AVIF file of 500 items that all begin at the start of the same 65,000 empty units."""
    units = b"\x12\0" * 65_000

    def file(at: int) -> bytes:
        items = b"".join(struct.pack(">HHHIH", number, 0, 0, at + number, 1) for number in range(500))
        return _avif(b"\1\0\0\0\0\x40" + struct.pack(">H", 500) + items, units)

    return file(len(file(0)) - len(units))


def avif_sequence_headers() -> bytes:
    """Return an AVIF file of one item that consists of 60,000 sequence headers."""
    units = b"\x0a\x05\x18\x15\x3f\xff\xff" * 60_000
    return _avif(_ONE_ITEM + struct.pack(">II", len(_avif(_ONE_ITEM + bytes(8))), len(units)), units, side=10_000)


def png_of_zeros() -> bytes:
    """Return a PNG file of 1 MB that states 119 megapixels of 64 bits, 950 MB, and contains 1 MB less."""
    compress = zlib.compressobj(9, zlib.DEFLATED)
    first = compress.compress(bytes(1 << 20)) + compress.flush(zlib.Z_FULL_FLUSH)
    each = compress.compress(bytes(1 << 20)) + compress.flush(zlib.Z_FULL_FLUSH)
    rows, columns = 10_900, 10_900
    parts = first + each * ((rows * (1 + 8 * columns) >> 20) - 2)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", parts) + chunk(b"IEND", b"")


def costly() -> dict[str, tuple[Callable[[], bytes], tuple[str, ...]]]:
    """Return a generator and the allowed codes of each file, by name; "ok" is an image."""
    return {
        "avif of empty extents": (avif_empty_extents, ("corrupt",)),
        "avif of empty units": (avif_empty_units, ("corrupt",)),
        "avif of shared units": (avif_shared_units, ("corrupt",)),
        "avif of sequence headers": (avif_sequence_headers, ("corrupt",)),
        "tiff of shared lists": (tiff_shared_lists, ("corrupt",)),
        "tiff of the longest lists": (tiff_longest_lists, ("corrupt", "truncated")),
        "gif of empty chains": (gif_empty_chains, ("corrupt",)),
        "jpeg and fill bytes": (lambda: jpeg() + b"\xff" * SIZE, ("ok",)),
        "jpeg and fill bytes without an end": (lambda: jpeg()[:-2] + b"\xff" * SIZE, ("ok",)),
        "jpeg of fill bytes": (lambda: jpeg()[:2] + b"\xff" * SIZE, ("truncated",)),
        "png of zeros": (png_of_zeros, ("truncated",)),
        "png with a wrong sum": (png_wrong_sum, ("corrupt",)),
    }
