"""What commands share: words to settings, arguments to images, and outcomes to an exit code."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vitkit.images import sniff
from vitkit.predict.inputs import expand

if TYPE_CHECKING:
    from vitkit.predict import Outcome


def settings(words: Sequence[str]) -> dict[str, str]:
    """The fields of a config that words like `pool=none` set; ValueError for a word that is none."""
    pairs = [word.partition("=") for word in words]
    for (name, equals, _), word in zip(pairs, words, strict=True):
        if not name or not equals:
            raise ValueError(f"--set takes NAME=VALUE, not '{word}'")
    return {name: value for name, _, value in pairs}


class StandardInput(bytes):
    """An image that came in on standard input; it is called `-` in what is printed."""

    def __str__(self) -> str:
        return "-"


def arguments_to_images(arguments: Sequence[str]) -> Iterator[Any]:
    """The images that the arguments of a command mean; ValueError where there are none."""
    if not arguments:
        raise ValueError("give at least one image: a file, a folder, a glob, or - for standard input")
    return _images(arguments)


def _images(arguments: Sequence[str]) -> Iterator[Any]:
    for argument in arguments:
        if argument != "-":
            yield from expand([argument])
            continue
        data = sys.stdin.buffer.read()
        if not data.strip():
            raise ValueError("standard input is empty: it takes an image, or one path a line")
        if sniff(data) is not None:
            yield StandardInput(data)
        else:
            yield from expand(line for line in data.decode("utf-8", "surrogateescape").splitlines() if line.strip())


def count_failures(outcomes: Iterable["Outcome"]) -> int:
    """Runs through the outcomes; says on standard error how many failed and returns the exit code: 0, or 2 for some."""
    total = failed = 0
    for outcome in outcomes:
        total += 1
        failed += outcome.error is not None
    if failed:
        print(f"vitkit: {failed} of {total} images could not be read", file=sys.stderr)
    return 2 if failed else 0
