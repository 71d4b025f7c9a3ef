"""`ImageError` with its error codes, and `Limits` for image files."""

from dataclasses import dataclass, fields
from typing import Final, Literal

Code = Literal[
    "too_large",
    "too_many_pixels",
    "unsupported_format",
    "not_an_image",
    "truncated",
    "corrupt",
    "unreadable",
    "not_finite",
]

#: Meaning of each code, for batch output, logs and servers.
CODES: Final[dict[Code, str]] = {
    "too_large": "more bytes, frames or memory than the limits allow",
    "too_many_pixels": "width x height (or the cost of decoding all scans) is above the pixel limit",
    "unsupported_format": "an image with an unsupported format, compression or pixel layout",
    "not_an_image": "not an image: an empty file, text, a document or random bytes",
    "truncated": "the file ends before the image data is complete",
    "corrupt": "the file violates its format",
    "unreadable": "the file cannot be opened: it is missing, is a folder, or permission is denied",
    "not_finite": "the image was read, but the outputs of the model contain NaN or infinity",
}


class ImageError(ValueError):
    """Raised for an image that cannot be read.

    `code` is one of `CODES`. The message never contains a path, a memory address or a message of a library; the caller
    adds the file name.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Code, str]]:
        # Worker processes pickle errors; by default, __init__ would be called with the message only.
        return type(self), (self.code, self.message)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on image files, checked before decoding. The defaults accept files of 100-megapixel cameras.

    max_bytes   file size in bytes
    max_pixels  width x height; decoding needs at most 17 bytes per pixel
    max_frames  frames or pages; only the first is decoded, the limit bounds the time to skip the others
    """

    max_bytes: int = 200_000_000
    max_pixels: int = 120_000_000
    max_frames: int = 1_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Limits.{field.name} must be an integer of at least 1, got {value!r}")


#: Default limits.
DEFAULT_LIMITS: Final = Limits()
