"""PNG and APNG files (W3C PNG third edition). Every chunk is checked. The decoder gets only the pixel data."""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import MAX_PARTS, MAX_PROFILE, check_frames, check_size, corrupt, truncated
from vitkit.images.header import Header, read_orientation

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_NAME: Final = re.compile(rb"[A-Za-z]{4}")
#: Color type -> channels and allowed bit depths (table 11.1).
_LAYOUTS: Final = {0: (1, {1, 2, 4, 8, 16}), 2: (3, {8, 16}), 3: (1, {1, 2, 4, 8}), 4: (2, {8, 16}), 6: (4, {8, 16})}
_GREY, _COLOR, _PALETTE = 0, 2, 3
#: Chunks whose name begins with a lower-case letter are optional.
_ANCILLARY: Final = ord("a")
_USEFUL: Final = frozenset({b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL"})
#: First column, first row and steps of the seven passes of an interlaced file (section 8.1).
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Maximum expansion of Deflate.
_DEFLATE: Final = 1032


class _Layout(NamedTuple):
    """The fields of the IHDR chunk: size in pixels, bit depth, color type and interlacing."""

    width: int
    height: int
    bits: int
    color: int
    interlaced: bool

    @property
    def pixel_bytes(self) -> int:
        """The uncompressed size of all rows in bytes, including their filter bytes."""
        depth = self.bits * _LAYOUTS[self.color][0]
        total = 0
        for x, y, step_x, step_y in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(self.width - x) // step_x), -(-(self.height - y) // step_y)
            if columns > 0 and rows > 0:
                total += rows * (1 + -(-columns * depth // 8))
        return total


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a PNG file."""
    return data.startswith(_SIGNATURE)


def _chunks(data: bytes, allow_truncated: bool) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yields (name, payload, whether the checksum is valid) of each chunk."""
    at, view = len(_SIGNATURE), memoryview(data)
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            if allow_truncated:
                return
            raise truncated()
        length, name = struct.unpack_from(">I4s", data, at)
        if not _NAME.fullmatch(name):
            raise corrupt("a chunk of the PNG file has an invalid name")
        payload = view[at + 8 : at + 8 + length]
        at += 12 + length
        if at > len(data):
            if not allow_truncated:
                raise truncated()
            yield name, payload, False
            return
        yield name, payload, struct.unpack_from(">I", data, at - 4)[0] == zlib.crc32(payload, zlib.crc32(name))
        if name == b"IEND":
            return
    raise corrupt(f"the PNG file has more than {MAX_PARTS} chunks")


def _layout(payload: bytes, limits: Limits) -> _Layout:
    if len(payload) != 13:
        raise corrupt(f"the header chunk of the PNG file has {len(payload)} bytes; expected 13")
    width, height, bits, color, compression, filtering, interlaced = struct.unpack(">IIBBBBB", payload)
    if bits not in _LAYOUTS.get(color, (0, set()))[1]:
        raise corrupt(f"the PNG file has the invalid color type {color} with {bits} bits per sample")
    if compression or filtering or interlaced > 1:
        raise corrupt(
            f"the PNG file has compression {compression}, filter {filtering} and interlace {interlaced}; "
            "expected 0, 0, and 0 or 1"
        )
    check_size(width, height, limits)
    return _Layout(width, height, bits, color, bool(interlaced))


def _inflated_size(parts: list[memoryview], needed: int) -> int:
    """Decompresses the pixel data in small chunks and returns the size in bytes. Stops at `needed` bytes."""
    inflate, total = zlib.decompressobj(), 0
    try:
        for part in parts:
            rest: bytes | memoryview = part
            while rest and total < needed:
                total += len(inflate.decompress(rest, 1 << 18))
                rest = inflate.unconsumed_tail
        while total < needed and not inflate.eof and (chunk := inflate.decompress(b"", 1 << 18)):
            total += len(chunk)
    except zlib.error:
        raise corrupt("the compressed pixel data of the PNG file is invalid") from None
    return total


def _profile(payload: bytes) -> bytes | None:
    """Decompresses the ICC profile in an iCCP chunk. Returns None if the profile is invalid or too large."""
    name_end = payload.find(b"\0")
    if not 0 < name_end < 80 or payload[name_end + 1 : name_end + 2] != b"\0":
        return None
    try:
        profile = zlib.decompressobj().decompress(payload[name_end + 2 :], MAX_PROFILE + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE else None


def _transparency(payload: bytes, layout: _Layout) -> tuple[int, ...] | None:
    """Returns the transparent color or the palette's alpha table in a tRNS chunk, or None if the chunk is invalid."""
    if layout.color == _PALETTE:
        return tuple(payload[:256])
    channels = {_GREY: 1, _COLOR: 3}.get(layout.color)
    return struct.unpack(f">{channels}H", payload) if channels and len(payload) == 2 * channels else None


def _chunk(name: bytes, *payload: bytes | memoryview) -> list[bytes | memoryview]:
    """Returns an encoded chunk in parts: length, name, payload and checksum."""
    length, checksum = sum(map(len, payload)), zlib.crc32(name)
    for part in payload:
        checksum = zlib.crc32(part, checksum)
    return [struct.pack(">I", length), name, *payload, struct.pack(">I", checksum)]


def _check_pixels(layout: _Layout, pixels: list[memoryview]) -> None:
    """Raises ImageError if the compressed pixel data is too short. Called before memory is allocated."""
    if not any(pixels):
        raise corrupt("the PNG file has no pixel data")
    needed = layout.pixel_bytes
    # The decoder accepts a truncated stream and leaves the other rows black.
    if sum(map(len, pixels)) * _DEFLATE < needed or _inflated_size(pixels, needed) < needed:
        raise truncated()


def _check_order(name: bytes, previous: bytes, seen_pixels: bool) -> None:
    """Raises ImageError if a chunk is in the wrong place, or if it is an unknown critical chunk."""
    if name == b"IHDR":
        raise corrupt("the PNG file has two header chunks; expected one")
    if name == b"IDAT" and seen_pixels and previous != b"IDAT":
        raise corrupt("the pixel chunks of the PNG file are not consecutive")
    if name[0] < _ANCILLARY and name not in (b"PLTE", b"IDAT", b"IEND"):
        raise ImageError(
            "unsupported_format",
            "PNG files with unknown critical chunks are not supported; save the image as a standard PNG",
        )


def _gather(data: bytes, limits: Limits, allow_truncated: bool) -> tuple[_Layout, dict[bytes, bytes], list[memoryview]]:
    """Returns the header fields, all pixel-data chunks, and the first valid chunk of each type in `_USEFUL`."""
    layout: _Layout | None = None
    found: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    previous = b""
    for name, payload, is_valid in _chunks(data, allow_truncated):
        if layout is None:
            if name != b"IHDR" or not is_valid:
                raise corrupt("the first chunk of the PNG file is not a valid header")
            layout = _layout(bytes(payload), limits)
        else:
            _check_order(name, previous, bool(pixels))
            if not is_valid and name[0] < _ANCILLARY and not allow_truncated:
                raise corrupt("the checksum of a chunk of the PNG file is wrong")
            if name == b"IDAT":
                pixels.append(payload)
            elif is_valid and name in _USEFUL:
                found.setdefault(name, bytes(payload))
        previous = name
    if layout is None:
        raise truncated()
    return layout, found, pixels


def _clean(layout: _Layout, palette: bytes | None, pixels: list[memoryview]) -> bytes:
    """Returns a PNG file that contains only the given pixel chunks."""
    parts = [_SIGNATURE, *_chunk(b"IHDR", struct.pack(">IIBBBBB", *layout[:4], 0, 0, layout.interlaced))]
    if layout.color == _PALETTE:
        if palette is None or len(palette) % 3 or not 0 < len(palette) <= 768:
            raise corrupt("the palette of the PNG file is missing or has the wrong length")
        parts += _chunk(b"PLTE", palette)
    return b"".join([*parts, *_chunk(b"IDAT", *pixels), *_chunk(b"IEND")])


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of a PNG file. For APNG files, only the default image is read."""
    layout, found, pixels = _gather(data, limits, allow_truncated)
    animation = found.get(b"acTL", b"")
    frames = max(1, struct.unpack_from(">I", animation)[0]) if len(animation) == 8 else 1
    check_frames(frames, limits)
    if not allow_truncated:
        _check_pixels(layout, pixels)
    return Header(
        format="PNG",
        width=layout.width,
        height=layout.height,
        clean=_clean(layout, found.get(b"PLTE"), pixels),
        frames=frames,
        orientation=read_orientation(found.get(b"eXIf", b"")),
        profile=_profile(found[b"iCCP"]) if b"iCCP" in found else None,
        transparency=_transparency(found[b"tRNS"], layout) if b"tRNS" in found else None,
        bits=layout.bits,
    )
