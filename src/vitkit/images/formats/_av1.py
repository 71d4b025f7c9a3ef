"""Reads frame sizes from the sequence headers of an AV1 bitstream (AV1 specification, section 5.5)."""

from collections.abc import Iterable, Iterator
from typing import Final

from vitkit.images.formats import corrupt

_SEQUENCE_HEADER: Final = 1
#: A sequence header with 32 operating points has about 400 bytes.
_HEADER_BYTES: Final = 512
#: Maximum number of units in all items; an image of 1,000 tiles has about 3,000.
_MAX_UNITS: Final = 16_384


class _Bits:
    """Reads unsigned integers from a sequence of bits. Raises ImageError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Returns the next `count` bits as an integer."""
        if count > self._left:
            raise corrupt("an AV1 sequence header is too short")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def take_variable(self) -> int:
        """Returns a variable-length integer (uvlc() in section 4.10.3 of the AV1 specification)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros >= 32:
                return (1 << 32) - 1
        return self.take(zeros) + (1 << zeros) - 1


def _skip_operating_points(bits: _Bits) -> None:
    decoder_model, delay_bits = 0, 0
    if bits.take(1):  # timing information
        bits.take(64)
        if bits.take(1):
            bits.take_variable()
        decoder_model = bits.take(1)
        if decoder_model:
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5 + 5)
    initial_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if decoder_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if initial_delay and bits.take(1):
            bits.take(4)


def _sequence_size(payload: bytes) -> tuple[int, int]:
    """Returns the maximum frame width and height in a sequence header."""
    bits = _Bits(payload)
    bits.take(3)  # profile
    bits.take(1)  # still_picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Reads a leb128() integer (AV1 specification, section 4.10.5). Returns it and the position after it."""
    value = 0
    for i in range(8):
        if at >= len(data):
            raise corrupt("a unit of the AV1 bitstream has no length field")
        byte = data[at]
        at += 1
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            break
    return value, at


def frame_sizes(data: bytes, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields (width, height) of each sequence header in the given ranges (start, end) of a file.

    Other data (a grid description, an alpha item of another codec) ends a range without an error; the decoder rejects
    it. Raises ImageError for more units than `_MAX_UNITS`, in all ranges together, because ranges may overlap.
    """
    units = 0
    for start, end in ranges:
        for size in _frame_sizes(data, start, end):
            units += 1
            if units > _MAX_UNITS:
                raise corrupt(f"the file has more than {_MAX_UNITS} AV1 units")
            if size is not None:
                yield size


def _frame_sizes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int] | None]:
    """Yields (width, height) for each sequence header and None for each other unit of the bitstream."""
    while at < end:
        head = data[at]
        if head & 0x80:
            return
        at += 2 if head & 4 else 1
        length, at = _length(data, at) if head & 2 else (end - at, at)
        is_header = (head >> 3) & 15 == _SEQUENCE_HEADER
        yield _sequence_size(data[at : min(at + length, at + _HEADER_BYTES, end)]) if is_header else None
        at += length
