"""WebP files (RFC 9649): still images, and the first frame of animations."""

import struct
from collections.abc import Iterator
from typing import Final

from vitkit.images.errors import Limits
from vitkit.images.formats import MAX_PARTS, MAX_PROFILE, check_frames, check_size, corrupt, truncated
from vitkit.images.header import CanvasPosition, Header, read_orientation

_ALPHA_FLAG: Final = 0x10
_ANIMATION_FLAG: Final = 0x02


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise truncated()
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
    raise corrupt(f"the WebP file has more than {MAX_PARTS} chunks")


def _three(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _bitstream_size(name: bytes, payload: bytes) -> tuple[int, int]:
    """Returns the width and height in the bitstream. The decoder allocates memory for this size."""
    if name == b"VP8L":
        if len(payload) < 5 or payload[0] != 0x2F:
            raise corrupt("the lossless WebP image has an invalid header")
        packed = struct.unpack_from("<I", payload, 1)[0]
        return (packed & 0x3FFF) + 1, ((packed >> 14) & 0x3FFF) + 1
    if len(payload) < 10 or payload[0] & 1 or payload[3:6] != b"\x9d\x01\x2a":
        raise corrupt("the WebP image has an invalid header")
    if _three(payload, 0) >> 5 > len(payload) - 10:
        raise truncated()
    width, height = struct.unpack_from("<HH", payload, 6)
    return width & 0x3FFF, height & 0x3FFF


def _chunk(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) & 1)


def _still(parts: dict[bytes, bytes], limits: Limits) -> tuple[bytes, int, int]:
    """Returns a still WebP file made from the ALPH, VP8 or VP8L chunks, and the width and height of the image."""
    name = b"VP8L" if b"VP8L" in parts else b"VP8 "
    if name not in parts:
        raise corrupt("the WebP file contains no image")
    width, height = _bitstream_size(name, parts[name])
    check_size(width, height, limits)
    body = _chunk(name, parts[name])
    if name == b"VP8 " and b"ALPH" in parts:
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = _chunk(b"VP8X", bytes([_ALPHA_FLAG, 0, 0, 0]) + size) + _chunk(b"ALPH", parts[b"ALPH"]) + body
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, width, height


def _gather(data: bytes, limits: Limits) -> tuple[dict[bytes, bytes], int]:
    """Returns the first chunk of each type, and the number of frames."""
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
        raise truncated()
    found: dict[bytes, bytes] = {}
    frames = 0
    for name, payload in _chunks(data[12 : 8 + length]):
        frames += name == b"ANMF"
        found.setdefault(name, payload)
        check_frames(frames, limits)
    return found, max(1, frames)


def _canvas(payload: bytes, limits: Limits) -> tuple[int, int, bool]:
    """Returns the width and height of the canvas in the VP8X chunk, and whether the file is animated."""
    if len(payload) < 10:
        raise corrupt("the header chunk of the WebP file has the wrong length")
    width, height = _three(payload, 4) + 1, _three(payload, 7) + 1
    check_size(width, height, limits)
    return width, height, bool(payload[0] & _ANIMATION_FLAG)


def _first_frame(found: dict[bytes, bytes], limits: Limits) -> tuple[bytes, int, int, CanvasPosition | None]:
    """Returns the first frame as a still WebP file, and the width, height and canvas position of the frame."""
    if b"VP8X" not in found:
        return *_still(found, limits), None
    canvas_width, canvas_height, animated = _canvas(found[b"VP8X"], limits)
    left = top = 0
    parts = found
    if animated:
        frame = found.get(b"ANMF", b"")
        if len(frame) < 16:
            raise corrupt("the WebP animation has no frames")
        left, top, parts = 2 * _three(frame, 0), 2 * _three(frame, 3), dict(_chunks(frame[16:]))
    clean, width, height = _still(parts, limits)
    if (width, height) == (canvas_width, canvas_height) and not left and not top:
        return clean, width, height, None
    if not animated or left + width > canvas_width or top + height > canvas_height:
        raise corrupt("the header and the image data of the WebP file state different sizes")
    return clean, width, height, (left, top, canvas_width, canvas_height)


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of a WebP file. Truncated files are rejected, because the decoder returns no partial images."""
    found, frames = _gather(data, limits)
    clean, width, height, canvas_position = _first_frame(found, limits)
    profile = found.get(b"ICCP")
    return Header(
        format="WEBP",
        width=width,
        height=height,
        clean=clean,
        frames=frames,
        orientation=read_orientation(found.get(b"EXIF", b"")),
        profile=profile if profile and len(profile) <= MAX_PROFILE else None,
        canvas_position=canvas_position,
    )
