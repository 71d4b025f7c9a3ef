"""Windows and OS/2 bitmaps: uncompressed files, bit fields, and small run-length encoded files."""

import struct
from typing import Final

from vitkit.images.errors import ImageError, Limits
from vitkit.images.formats import check_size, corrupt, truncated
from vitkit.images.header import Header

_HEADER_SIZES: Final = (12, 40, 52, 56, 64, 108, 124)
_DEPTHS: Final = (1, 4, 8, 16, 24, 32)
_RAW, _RLE8, _RLE4, _BITFIELDS = 0, 1, 2, 3
#: Run-length encoding is decoded byte by byte in Python, so such files must be small.
_MAX_RUN_LENGTH_PIXELS: Final = 2_000_000


def sniff(data: bytes) -> bool:
    """Returns whether the first bytes are those of a BMP file."""
    # Many texts begin with "BM"; the header size of a bitmap follows at byte 14.
    return data[:2] == b"BM" and len(data) >= 18 and data[15:18] == b"\0\0\0"


def read(data: bytes, limits: Limits, allow_truncated: bool) -> Header:
    """Reads the header of a BMP file. Rows are stored bottom-up if the height is positive, otherwise top-down."""
    (size,) = struct.unpack_from("<I", data, 14)
    if size not in _HEADER_SIZES:
        raise ImageError(
            "unsupported_format",
            f"the header of the BMP file has an unsupported size of {size} bytes; expected one of {_HEADER_SIZES}",
        )
    if len(data) < 14 + size:
        raise truncated()
    compression = _RAW
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    check_size(width, abs(height), limits)
    if bits not in _DEPTHS:
        raise ImageError("unsupported_format", f"the BMP file has {bits} bits per pixel; expected one of {_DEPTHS}")
    if compression in (_RLE8, _RLE4):
        if bits != (8 if compression == _RLE8 else 4):
            raise corrupt(f"BMP compression method {compression} does not support {bits} bits per pixel")
        if width * abs(height) > min(_MAX_RUN_LENGTH_PIXELS, limits.max_pixels):
            raise ImageError(
                "too_many_pixels",
                f"the run-length encoded BMP file has {width} x {abs(height)} pixels; "
                f"the limit is {_MAX_RUN_LENGTH_PIXELS} pixels",
            )
    elif compression not in (_RAW, _BITFIELDS):
        raise ImageError(
            "unsupported_format", f"the BMP file has compression method {compression}; expected 0, 1, 2 or 3"
        )
    elif not allow_truncated and -(-width * bits // 32) * 4 * abs(height) > len(data) - 14 - size:
        raise truncated()
    return Header(format="BMP", width=width, height=abs(height), clean=data)
