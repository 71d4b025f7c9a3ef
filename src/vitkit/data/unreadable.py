"""Counts and lists unreadable images of a dataset. Raises an error if their fraction is above a limit."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from vitkit.data import Source, Subset

# So many unreadable images never end a run, whatever their fraction: a small data set may have a few.
TOLERATED = 10


class TooManyUnreadable(ValueError):  # noqa: N818 - an end, as StopIteration is
    """Raised if the fraction of unreadable images is above the limit, or if no image can be read."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image that cannot be read: its index in the source, and the reason, which names the image."""

    index: int
    reason: str

    def __str__(self) -> str:
        return f"image {self.index}: {self.reason}"


@dataclass
class Unreadable:
    """The unreadable images of one source, collected by `evaluation_batches`, which skips them.

    `limit` is the largest fraction of the `total` number of images; up to `TOLERATED` images are always allowed.
    """

    total: int
    limit: float = 1.0
    errors: dict[int, str] = field(default_factory=dict)

    def add(self, images: Iterable[UnreadableImage]) -> None:
        """Adds unreadable images, each of which is counted once. Raises TooManyUnreadable if there are too many."""
        self.errors |= {each.index: each.reason for each in images}
        if self.errors:
            example = next(iter(self.errors.values()))
            check_unreadable(len(self.errors), self.total, self.limit, example)
            if len(self.errors) >= self.total:
                raise TooManyUnreadable(f"none of {self.total} images could be read; the first error is: {example}")

    @property
    def images(self) -> tuple[UnreadableImage, ...]:
        """The unreadable images in the order of the source."""
        return tuple(UnreadableImage(index, self.errors[index]) for index in sorted(self.errors))

    def readable(self, source: Source) -> Source:
        """Returns the source without its unreadable images, in unchanged order."""
        if not self.errors:
            return source
        return Subset(source, np.array([index for index in range(len(source)) if index not in self.errors], dtype=int))


def check_skipped(source: Source, limit: float) -> None:
    """Raises TooManyUnreadable if too many files of a source could not be read when it was opened."""
    if source.skipped:
        number = max(len(source.skipped), source.lost)
        check_unreadable(number, len(source) + number, limit, source.skipped[0])


def check_unreadable(number: int, total: int, limit: float, example: str) -> None:
    """Raises TooManyUnreadable if `number` is above `TOLERATED` and above the fraction `limit` of `total`."""
    if number > max(TOLERATED, limit * total):
        raise TooManyUnreadable(
            f"{number} of {total} images could not be read, but the limit is {limit:.0%}; repair or remove them, or "
            f"raise max_unreadable (one error is: {example})"
        )
