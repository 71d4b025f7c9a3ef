"""What commands share: words to settings, arguments to images, and outcomes to an exit code."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vitkit.images import sniff
from vitkit.predict.inputs import expand

if TYPE_CHECKING:
    from vitkit.predict import Classifier, Outcome


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


def arguments_to_images(arguments: Sequence[str]) -> list[Any]:
    """The images that the arguments of a command mean; ValueError where one means none, before anything is run."""
    if not arguments:
        raise ValueError("give at least one image: a file, a folder, a glob, or - for standard input")
    return [image for argument in arguments for image in (_standard_input() if argument == "-" else expand([argument]))]


def _standard_input() -> Iterator[Any]:
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise ValueError("standard input is empty: it takes an image, or one path a line")
    if sniff(data) is not None or not _is_text(data):
        yield StandardInput(data)
    else:
        yield from expand(line for line in data.decode("utf-8").splitlines() if line.strip())


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def opened(model: str, revision: str | None, image_size: int | None, words: Sequence[str]) -> "Classifier":
    """The checkpoint that a command is given; what had to be guessed about it is said on standard error."""
    from vitkit.predict import load

    classifier = load(model, revision=revision, image_size=image_size, config=settings(words))
    for note in classifier.origin.notes if classifier.origin else ():
        print(f"vitkit: {note}", file=sys.stderr)
    return classifier


def shows_progress() -> bool:
    """Whether somebody watches standard error while the results go elsewhere."""
    return sys.stderr.isatty() and not sys.stdout.isatty()


def json_line(row: dict[str, Any]) -> str:
    """One line of JSON in characters that standard output takes."""
    return json.dumps(row, ensure_ascii=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")


def count_failures(outcomes: Iterable["Outcome"]) -> int:
    """Runs through the outcomes; says on standard error how many failed and returns the exit code: 0, or 2 for some."""
    total = failed = 0
    for outcome in outcomes:
        total += 1
        failed += outcome.error is not None
    if failed:
        print(f"vitkit: {failed} of {total} images could not be read", file=sys.stderr)
    return 2 if failed else 0
