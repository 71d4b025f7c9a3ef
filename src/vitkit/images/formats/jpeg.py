"""JPEG files (ITU-T T.81): baseline, extended and progressive, with 8 bits and 1, 3 or 4 components."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import MAX_PARTS, MAX_PROFILE, check_size, corrupt, truncated
from vitkit.images.header import Header, read_orientation

_SOI, _EOI, _SOS, _RESTART_INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
#: Lossless, hierarchical and arithmetic coding: rare, and decoders are little tested on them.
_OTHER_FRAMES: Final = frozenset({0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD})  # Huffman, quantization, restart interval

#: A progressive file is decoded once per scan; real files have about ten scans.
_SCANS_AT_FULL_SIZE: Final = 12
_MAX_SCANS: Final = 500
#: Bytes searched for markers at a time.
_CHUNK: Final = 1 << 18
_NOT_FILL: Final = re.compile(rb"[^\xff]")


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a JPEG file."""
    return data.startswith(b"\xff\xd8\xff")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start, end) of each segment up to the first scan. `start` is the position of the byte 0xFF."""
    at = 2
    for _ in range(MAX_PARTS):
        start = data.find(b"\xff", at)
        if start < 0:
            raise truncated()
        after_fill = _NOT_FILL.search(data, start + 1)
        if after_fill is None:
            raise truncated()
        marker, at = data[after_fill.start()], after_fill.end()
        if marker == 0 or marker == _SOI or marker in _WITHOUT_LENGTH:
            continue
        if marker == _EOI:
            raise corrupt("the JPEG file ends before its first scan")
        if at + 2 > len(data):
            raise truncated()
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            raise corrupt("a segment of the JPEG file is shorter than its own length field")
        if at + length > len(data):
            raise truncated()
        yield marker, at - 2, at + length
        if marker == _SOS:
            return
        at += length
    raise corrupt(f"the JPEG file has more than {MAX_PARTS} segments before the image")


def _frame(payload: bytes) -> tuple[int, int, list[tuple[int, int]]]:
    """Returns the width and height, and the (horizontal, vertical) sampling factors of each component."""
    if len(payload) < 6:
        raise corrupt("the frame header of the JPEG file is too short")
    bits, height, width, components = struct.unpack_from(">BHHB", payload)
    if bits != 8:
        raise ImageError(
            "unsupported_format", f"JPEG files with {bits} bits per sample are not supported; save with 8 bits"
        )
    if components not in (1, 3, 4) or len(payload) < 6 + 3 * components:
        raise corrupt(
            f"the JPEG frame header has {components} components in {len(payload)} bytes; "
            "expected 1, 3 or 4 components, with 3 bytes for each after the first 6 bytes"
        )
    if height == 0:
        raise ImageError(
            "unsupported_format",
            "JPEG files that store the height after the image are not supported; save the image again",
        )
    factors = [(payload[i] >> 4, payload[i] & 15) for i in range(7, 7 + 3 * components, 3)]
    if invalid := [(h, v) for h, v in factors if not (1 <= h <= 4 and 1 <= v <= 4)]:
        raise corrupt(f"the sampling factors of a JPEG component are {invalid[0]}; both must be between 1 and 4")
    return width, height, factors


def _min_bits(width: int, height: int, factors: list[tuple[int, int]], progressive: bool) -> int:
    """Returns a lower bound for the compressed size in bits: 2 per block of 8 x 8 samples, or 1 if progressive."""
    widest, tallest = max(h for h, _ in factors), max(v for _, v in factors)
    blocks = sum(-(-width * h // (8 * widest)) * -(-height * v // (8 * tallest)) for h, v in factors)
    return blocks * (1 if progressive else 2)


def _profile(parts: dict[int, bytes], total: int) -> bytes | None:
    """Joins the numbered segments that contain an ICC profile (ICC.1:2022, annex B.4)."""
    if not parts or sorted(parts) != list(range(1, total + 1)):
        return None
    profile = b"".join(parts[number] for number in sorted(parts))
    return profile if len(profile) <= MAX_PROFILE else None


def _end_and_scans(data: bytes, start: int) -> tuple[int, int]:
    """Returns the position of the first end marker after `start` (-1 if missing) and the number of scans before it.

    Vectorized, because a search for pairs of bytes in Python takes a tenth of the time of decoding; in chunks, because
    positions take eight times the memory of bytes.
    """
    values = np.frombuffer(data, np.uint8)
    scans = 0
    for begin in range(start, len(data) - 1, _CHUNK):
        chunk = values[begin : begin + _CHUNK + 1]
        positions = np.flatnonzero(chunk[:-1] == 0xFF)
        following = chunk[positions + 1]
        ends = positions[following == _EOI]
        if ends.shape[0]:
            return begin + int(ends[0]), scans + int((following[positions < ends[0]] == _SOS).sum())
        scans += int((following == _SOS).sum())
    return -1, scans


def _check_scans(scans: int, pixels: int, limits: Limits) -> None:
    if scans > _MAX_SCANS or scans * pixels > _SCANS_AT_FULL_SIZE * limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the JPEG image has {pixels} pixels in {scans} scans, which would take too long to decode; "
            "save it as a baseline JPEG",
        )


@dataclass
class _Start:
    """The contents of a file before its first scan. `segments` has the segments that the decoder needs."""

    segments: list[bytes]
    width: int = 0
    height: int = 0
    factors: list[tuple[int, int]] = field(default_factory=list)
    progressive: bool = False
    restarts: bool = False
    orientation: int = 1
    profile_parts: dict[int, bytes] = field(default_factory=dict)
    profile_total: int = 0
    scan: int = 0


def _read_start(data: bytes, limits: Limits) -> _Start:
    found = _Start(segments=[data[:2]])
    for marker, start, end in _segments(data):
        payload = data[start + 4 : end]
        if marker in _FRAMES:
            if found.factors:
                raise corrupt("the JPEG file has two frame headers; expected one")
            found.width, found.height, found.factors = _frame(payload)
            found.progressive = marker == 0xC2
            check_size(found.width, found.height, limits)
        elif marker in _OTHER_FRAMES:
            raise ImageError(
                "unsupported_format",
                "lossless, hierarchical and arithmetic JPEG files are not supported; save as baseline or progressive",
            )
        elif marker == _APP1 and payload.startswith(b"Exif\0\0"):
            found.orientation = read_orientation(payload)
        elif marker == _APP2 and payload.startswith(b"ICC_PROFILE\0") and len(payload) > 14:
            found.profile_parts[payload[12]], found.profile_total = payload[14:], payload[13]
        elif marker == _RESTART_INTERVAL:
            found.restarts = any(payload)
        elif marker == _SOS:
            found.scan = start
        is_color = (marker == _APP0 and payload[:4] == b"JFIF") or (marker == _APP14 and payload[:5] == b"Adobe")
        if marker in _FRAMES or marker in _TABLES or is_color:
            found.segments.append(data[start:end])
    if not found.factors:
        raise corrupt("a scan of the JPEG file comes before the frame header")
    return found


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of a JPEG file. For MPO and Ultra HDR files, only the first image is read."""
    found = _read_start(data, limits)
    width, height, scan = found.width, found.height, found.scan
    end, scans = _end_and_scans(data, scan)
    complete = end >= 0
    end = end if complete else len(data)
    _check_scans(scans, width * height, limits)
    # Without an end marker, the number of missing scans or restart intervals is unknown.
    is_short = (end - scan) * 8 < _min_bits(width, height, found.factors, found.progressive)
    if not allow_truncated and (is_short or (not complete and (found.progressive or found.restarts))):
        raise truncated()
    # With an end marker, the decoder fills missing pixels instead of waiting for data.
    end_marker = b"\xff\xd9" if complete or allow_truncated else b""
    # Fill bytes before a missing end marker are not pixels.
    pixels = data[scan:end] if complete else data[scan:end].rstrip(b"\xff")
    return Header(
        format="JPEG",
        width=width,
        height=height,
        clean=b"".join([*found.segments, pixels, end_marker]),
        orientation=found.orientation,
        profile=_profile(found.profile_parts, found.profile_total),
        complete=complete or allow_truncated,
    )
