"""The sizes in an AV1 bit stream: just enough of the sequence header (AV1 specification, section 5.5)."""

from collections.abc import Iterator

from vitkit.images.formats import MAX_PARTS, corrupt

_SEQUENCE_HEADER = 1


class _Bits:
    """Reads unsigned numbers bit by bit; past the end it raises."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        if count > self._left:
            raise corrupt("a sequence header is too short")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def take_variable(self) -> int:
        """uvlc() of section 4.10.3."""
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
    """The largest width and height that a sequence header allows its frames."""
    bits = _Bits(payload[:512])
    bits.take(3)  # profile
    bits.take(1)  # still picture
    if bits.take(1):  # reduced header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _length(data: bytes, at: int) -> tuple[int, int]:
    """leb128() of section 4.10.5: the number and the place after it."""
    value = 0
    for i in range(8):
        if at >= len(data):
            raise corrupt("a unit has no length")
        byte = data[at]
        at += 1
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            break
    return value, at


def frame_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) of each sequence header in a run of open bitstream units.

    Data that are no such run (a grid description, an alpha item of another codec) end the walk without an error: the
    decoder refuses them.
    """
    at = 0
    for _ in range(MAX_PARTS):
        if at >= len(data):
            return
        head = data[at]
        if head & 0x80:
            return
        at += 2 if head & 4 else 1
        length, at = _length(data, at) if head & 2 else (len(data) - at, at)
        if (head >> 3) & 15 == _SEQUENCE_HEADER:
            yield _sequence_size(data[at : at + length])
        at += length
