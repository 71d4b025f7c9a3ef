"""How much a stranger's file may cost us before it is refused."""

from dataclasses import dataclass, fields
from typing import Final


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
