"""The one error that reading a picture raises: a code for programs and a sentence fit for a stranger's eyes."""

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

#: Every code with its meaning; batch output, logs and servers share these words.
CODES: Final[dict[Code, str]] = {
    "too_large": "more bytes, frames or memory than the limits allow",
    "too_many_pixels": "width x height (or the work that its scans cost) is above the pixel limit",
    "unsupported_format": "a picture, but of a format, compression or pixel layout that is not read",
    "not_an_image": "no picture at all: empty, text, a document, random bytes",
    "truncated": "the file ends before the picture does",
    "corrupt": "the file breaks the rules of its own format",
    "unreadable": "the file could not be opened: missing, a folder, no permission",
    "not_finite": "read, but the network gave values that are no numbers",
}


class ImageError(ValueError):
    """A picture that cannot be read.

    `code` is one of `CODES`. The message is written by vitkit alone: it never holds a path, a memory address or the
    text of a library. Whoever knows the file's name adds it.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Code, str]]:
        # A worker process hands its errors over pickled; the default would call __init__ with the message alone.
        return type(self), (self.code, self.message)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Caps that the probe checks before anything is decoded.

    max_bytes   bytes of the file
    max_pixels  width x height of the picture; decoding needs at most 12 bytes for each
    max_frames  frames or pages; only the first is ever decoded, the cap keeps the walk over the others short
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_frames: int = 1_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Limits.{field.name} is a whole number of at least 1, got {value!r}")


#: What a file may cost where nothing else is said.
DEFAULT_LIMITS: Final = Limits()
