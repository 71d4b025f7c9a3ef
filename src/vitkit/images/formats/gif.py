"""GIF (87a and 89a): the first frame on its canvas."""

import struct
from typing import Final

from vitkit.images.errors import Limits
from vitkit.images.formats import BIG, check_frames, check_size, corrupt, truncated
from vitkit.images.header import Header

_EXTENSION, _IMAGE, _TRAILER, _GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9
#: Blocks in one file: at 255 bytes each this is a file of 125 MB.
_MAX_BLOCKS: Final = 500_000
#: An LZW code has at least 3 bits and stands for at most 4096 pixels.
_PIXELS_PER_BYTE: Final = 4096 * 8 // 3


def sniff(data: bytes) -> bool:
    """Whether the file begins as GIF files do."""
    return data[:6] in (b"GIF87a", b"GIF89a")


def _table_bytes(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


class _Walk:
    """A position in the file that never leaves it, with a budget of blocks."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at, self.blocks = data, at, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes; error: truncated."""
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise truncated()
        self.at += count
        return piece

    def skip_blocks(self) -> bool:
        """Go past a chain of sub-blocks; False when the file ends before the chain does."""
        data, size = self.data, len(self.data)
        while self.at < size:
            length = data[self.at]
            self.at += 1 + length
            self.blocks += 1
            if length == 0:
                return True
            if self.blocks > _MAX_BLOCKS:
                raise corrupt(f"more than {_MAX_BLOCKS} data blocks")
        self.at = size
        return False


def _frame_start(walk: _Walk) -> tuple[bytes, int | None]:
    """Go to the first image block; the control block before it, and the index that is clear."""
    control, clear = b"", None
    while (kind := walk.take(1)[0]) != _IMAGE:
        if kind != _EXTENSION:
            raise corrupt("it has no picture" if kind == _TRAILER else "an unknown block")
        start = walk.at - 1
        label = walk.take(1)[0]
        if not walk.skip_blocks():
            raise truncated()
        block = walk.data[start : walk.at]
        if label == _GRAPHIC_CONTROL and len(block) == 8:
            control, clear = block, (block[6] if block[3] & 1 else None)
    return control, clear


def _frame(walk: _Walk, limits: Limits, allow_truncated: bool) -> tuple[bytes, int, int]:
    """The image block that begins one byte back, and the width and height of the canvas that holds it."""
    start = walk.at - 1
    screen_width, screen_height = struct.unpack_from("<HH", walk.data, 6)
    left, top, width, height, flags = struct.unpack("<HHHHB", walk.take(9))
    check_size(width, height, limits)
    # A frame may reach beyond its screen; the decoder then widens the screen, so the sum is what counts.
    canvas_width, canvas_height = max(screen_width, left + width), max(screen_height, top + height)
    check_size(canvas_width, canvas_height, limits)
    walk.take(_table_bytes(flags))
    if not 1 <= walk.take(1)[0] <= 8:
        raise corrupt("the code size is not between 1 and 8 bits")
    is_whole = walk.skip_blocks() and width * height <= max(BIG, (walk.at - start) * _PIXELS_PER_BYTE)
    if not is_whole and not allow_truncated:
        raise truncated()
    return walk.data[start : walk.at], canvas_width, canvas_height


def _count_frames(walk: _Walk, limits: Limits) -> int:
    """Frames in the file, the first included; a broken tail ends the count, because only the first is decoded."""
    frames, data = 1, walk.data
    while walk.at < len(data) and frames <= limits.max_frames:
        kind = data[walk.at]
        if kind == _EXTENSION:
            walk.at += 2
        elif kind == _IMAGE and walk.at + 10 < len(data):
            walk.at += 11 + _table_bytes(data[walk.at + 9])
            frames += 1
        else:
            break
        if not walk.skip_blocks():
            break
    return frames


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Header of a GIF file; `transparency` is the index that shows the background."""
    if len(data) < 13:
        raise truncated()
    walk = _Walk(data, 13)
    walk.take(_table_bytes(data[10]))
    head_end = walk.at
    control, clear = _frame_start(walk)
    frame, width, height = _frame(walk, limits, allow_truncated)
    frames = _count_frames(walk, limits)
    check_frames(frames, limits)
    return Header(
        format="GIF",
        width=width,
        height=height,
        clean=data[:head_end] + control + frame + b"\0;",
        frames=frames,
        transparency=None if clear is None else (clear,),
    )
