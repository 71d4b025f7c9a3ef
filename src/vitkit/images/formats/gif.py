"""GIF files (87a and 89a). Only the first frame is read. It is placed on the canvas of the file."""

import struct
from typing import Final

from vitkit.images.errors import Limits
from vitkit.images.formats import BIG, check_frames, check_size, corrupt, truncated
from vitkit.images.header import Header

_EXTENSION, _IMAGE, _TRAILER, _GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9
#: Maximum number of blocks, including empty ones; with 255 bytes each, this is a file of 255 MB.
_MAX_BLOCKS: Final = 1_000_000
#: Maximum number of extensions and frames, which take longer to read than blocks.
_MAX_CHAINS: Final = 200_000
#: An LZW code has at least 3 bits and stands for at most 4096 pixels.
_PIXELS_PER_BYTE: Final = 4096 * 8 // 3


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a GIF file."""
    return data[:6] in (b"GIF87a", b"GIF89a")


def _table_bytes(flags: int) -> int:
    """Returns the size in bytes of the color table that the flags describe, or 0 if there is no color table."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


class _Reader:
    """Bounds-checked reader that limits the number of blocks and of chains of blocks."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.blocks = self.chains = 0

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes. Raises ImageError if the file is truncated."""
        chunk = self.data[self.at : self.at + count]
        if len(chunk) < count:
            raise truncated()
        self.at += count
        return chunk

    def skip_blocks(self) -> bool:
        """Skips a chain of sub-blocks. Returns False if the file ends inside the chain."""
        data, size = self.data, len(self.data)
        self.chains += 1
        if self.chains > _MAX_CHAINS:
            raise corrupt(f"the GIF file has more than {_MAX_CHAINS} extensions and frames")
        while self.at < size:
            length = data[self.at]
            self.at += 1 + length
            self.blocks += 1
            if self.blocks > _MAX_BLOCKS:
                raise corrupt(f"the GIF file has more than {_MAX_BLOCKS} data blocks")
            if length == 0:
                return True
        self.at = size
        return False


def _frame_start(reader: _Reader) -> tuple[bytes, int | None]:
    """Skips to the first image block.
    Returns the graphic control block before it and the palette index of the transparent color.
    """
    control, transparent = b"", None
    while (kind := reader.take(1)[0]) != _IMAGE:
        if kind != _EXTENSION:
            raise corrupt(
                "the GIF file contains no image" if kind == _TRAILER else "the GIF file contains an unknown block"
            )
        start = reader.at - 1
        label = reader.take(1)[0]
        if not reader.skip_blocks():
            raise truncated()
        block = reader.data[start : reader.at]
        if label == _GRAPHIC_CONTROL and len(block) == 8:
            control, transparent = block, (block[6] if block[3] & 1 else None)
    return control, transparent


def _frame(reader: _Reader, limits: Limits, allow_truncated: bool) -> tuple[bytes, int, int]:
    """Returns the image block that starts one byte before the reader's position, and the canvas width and height."""
    start = reader.at - 1
    screen_width, screen_height = struct.unpack_from("<HH", reader.data, 6)
    left, top, width, height, flags = struct.unpack("<HHHHB", reader.take(9))
    check_size(width, height, limits)
    # A frame may extend beyond the screen; the decoder then enlarges the screen to this size.
    canvas_width, canvas_height = max(screen_width, left + width), max(screen_height, top + height)
    check_size(canvas_width, canvas_height, limits)
    reader.take(_table_bytes(flags))
    code_size = reader.take(1)[0]
    if not 1 <= code_size <= 8:
        raise corrupt(f"the LZW code size of the GIF image is {code_size} bits; it must be between 1 and 8")
    is_complete = reader.skip_blocks() and width * height <= max(BIG, (reader.at - start) * _PIXELS_PER_BYTE)
    if not is_complete and not allow_truncated:
        raise truncated()
    return reader.data[start : reader.at], canvas_width, canvas_height


def _count_frames(reader: _Reader, limits: Limits) -> int:
    """Counts the frames up to the end of the file or the first invalid block."""
    frames, data = 1, reader.data
    while reader.at < len(data) and frames <= limits.max_frames:
        kind = data[reader.at]
        if kind == _EXTENSION:
            reader.at += 2
        elif kind == _IMAGE and reader.at + 10 < len(data):
            reader.at += 11 + _table_bytes(data[reader.at + 9])
            frames += 1
        else:
            break
        if not reader.skip_blocks():
            break
    return frames


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of a GIF file. `transparency` is the palette index of the transparent color."""
    if len(data) < 13:
        raise truncated()
    reader = _Reader(data, 13)
    reader.take(_table_bytes(data[10]))
    head_end = reader.at
    control, transparent = _frame_start(reader)
    frame, width, height = _frame(reader, limits, allow_truncated)
    frames = _count_frames(reader, limits)
    check_frames(frames, limits)
    return Header(
        format="GIF",
        width=width,
        height=height,
        clean=data[:head_end] + control + frame + b"\0;",
        frames=frames,
        transparency=None if transparent is None else (transparent,),
    )
