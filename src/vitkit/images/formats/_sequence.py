"""Converts the first frame of an AVIF sequence that has no primary image to a still AVIF file.

Only the first sample of the first AV1 track is used, so the tables of a hostile file have no cost.
"""

import struct
from dataclasses import dataclass

from vitkit.images.formats import corrupt, truncated
from vitkit.images.formats._boxes import boxes

#: Boxes that contain boxes, and the number of bytes before the first one.
_CONTAINERS = {b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
#: Sizes of the fields of a sample table before its first entry, and of a sample entry before its boxes.
_TABLE, _ENTRY = 8, 78


@dataclass
class _Track:
    """First frame of a track: width and height in pixels, decoder configuration, offset and length in bytes."""

    handler: bytes = b""
    width: int = 0
    height: int = 0
    configuration: bytes = b""
    offset: int | None = None
    length: int | None = None


def _read_entry(data: bytes, at: int, end: int, track: _Track) -> None:
    """Reads size and decoder configuration from a track's first sample entry if the codec is AV1."""
    if end - at < 8 + _ENTRY or data[at + 4 : at + 8] != b"av01":
        return
    track.width, track.height = struct.unpack_from(">HH", data, at + 8 + 24)
    for name, start, stop in boxes(data, at + 8 + _ENTRY, end, {}):
        if name == b"av1C":
            track.configuration = data[start:stop]
            return


def _tracks(data: bytes, start: int, end: int) -> list[_Track]:
    """Returns the tracks of an AVIF sequence. The payload of the moov box is `data[start:end]`."""
    tracks: list[_Track] = []
    for name, at, stop in boxes(data, start, end, _CONTAINERS):
        if name == b"trak":
            tracks.append(_Track())
        elif not tracks or stop - at < _TABLE + 4:
            continue
        elif name == b"hdlr":
            tracks[-1].handler = data[at + 8 : at + 12]
        elif name == b"stsd":
            _read_entry(data, at + _TABLE, stop, tracks[-1])
        elif name == b"stco":
            (tracks[-1].offset,) = struct.unpack_from(">I", data, at + _TABLE)
        elif name == b"co64" and stop - at >= _TABLE + 8:
            (tracks[-1].offset,) = struct.unpack_from(">Q", data, at + _TABLE)
        elif name == b"stsz":
            (common,) = struct.unpack_from(">I", data, at + 4)
            first = struct.unpack_from(">I", data, at + 12)[0] if stop - at >= 16 else None
            tracks[-1].length = common or first
    return tracks


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def still_of_sequence(data: bytes, start: int, end: int) -> bytes:
    """Returns a still AVIF file of the first frame. The payload of the moov box is `data[start:end]`."""
    for track in _tracks(data, start, end):
        if track.configuration and track.handler != b"auxv":
            break
    else:
        raise corrupt("the AVIF sequence has no AV1 track")
    if track.offset is None or track.length is None:
        raise corrupt("the AVIF sequence has no frames")
    sample = data[track.offset : track.offset + track.length]
    if len(sample) < track.length:
        raise truncated()
    size = _box(b"ispe", bytes(4), struct.pack(">II", track.width, track.height))
    properties = _box(b"ipco", size, _box(b"av1C", track.configuration))
    associations = _box(b"ipma", bytes(4), struct.pack(">IHBBB", 1, 1, 2, 1, 0x82))
    item = _box(b"infe", b"\2\0\0\0", struct.pack(">HH4sx", 1, 0, b"av01"))
    start_of_file = _box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")

    def file(offset: int) -> bytes:
        meta = _box(
            b"meta",
            bytes(4),
            _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", bytes(4), struct.pack(">H", 1)),
            _box(b"iloc", bytes(4), struct.pack(">HHHHHII", 0x4400, 1, 1, 0, 1, offset, len(sample))),
            _box(b"iinf", bytes(4), struct.pack(">H", 1), item),
            _box(b"iprp", properties, associations),
        )
        return start_of_file + meta + _box(b"mdat", sample)

    return file(len(file(0)) - len(sample))
