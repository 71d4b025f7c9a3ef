"""Reads the boxes of an ISO base media file (ISO/IEC 14496-12, section 4.2)."""

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from vitkit.images.formats import MAX_PARTS, corrupt, truncated

_MAX_DEPTH: Final = 5


def boxes(
    data: bytes, start: int, end: int, containers: Mapping[bytes, int], depth: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """Yields (type, payload start, payload end) of each box, including the boxes nested in `containers`.

    `containers` maps types to the number of bytes before their first box.
    """
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
            raise corrupt("a box of the AVIF or HEIF file is shorter than its own header")
        yield name, payload, at + length
        if name in containers and depth < _MAX_DEPTH:
            yield from boxes(data, payload + containers[name], at + length, containers, depth + 1)
        at += length
    raise corrupt(f"the AVIF or HEIF file has more than {MAX_PARTS} boxes")
