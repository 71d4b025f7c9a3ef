"""Helper functions of the commands for config settings, image arguments and exit codes."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitkit.config import Json
from vitkit.images import DEFAULT_LIMITS, Limits, sniff
from vitkit.inference.classifier import expand
from vitkit.text import shortened

if TYPE_CHECKING:
    from vitkit.inference import Classifier, Outcome


def settings(words: Sequence[str]) -> dict[str, str]:
    """Parses settings of the form `NAME=VALUE`. Raises ValueError for other text."""
    pairs = [word.partition("=") for word in words]
    for (name, equals, _), word in zip(pairs, words, strict=True):
        if not name or not equals:
            raise ValueError(f"--set takes NAME=VALUE, not '{word}'")
    return {name: value for name, _, value in pairs}


class StandardInput(bytes):
    """An image from standard input, which is printed as `-`."""

    def __str__(self) -> str:
        return "-"


def arguments_to_images(arguments: Sequence[str]) -> list[str | bytes]:
    """Expands image arguments. Raises ValueError if an argument matches no file."""
    if not arguments:
        raise ValueError("give at least one image: a file, a folder, a glob, or - for standard input")
    return [image for argument in arguments for image in (_standard_input() if argument == "-" else expand([argument]))]


def _standard_input() -> Iterator[str | bytes]:
    data = sys.stdin.buffer.read()
    if not data.strip():
        raise ValueError("standard input is empty; expected an image, or one path per line")
    if sniff(data) is not None or not _is_text(data):
        yield StandardInput(data)
    else:
        yield from expand(line for line in data.decode("utf-8").splitlines() if line.strip())


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def load_model(model: str, revision: str | None, image_size: int | None, words: Sequence[str]) -> "Classifier":
    """Loads a checkpoint and prints on standard error which of its properties were guessed."""
    from vitkit.inference import load

    classifier = load(model, revision=revision, image_size=image_size, config=settings(words))
    for note in classifier.origin.notes if classifier.origin else ():
        print(f"vitkit: {note}", file=sys.stderr)
    return classifier


def limits(max_pixels: int | None, max_bytes: int | None) -> Limits:
    """Returns the image limits of --max-pixels and --max-bytes. Raises ValueError for values below 1."""
    for option, value in (("--max-pixels", max_pixels), ("--max-bytes", max_bytes)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")
    given = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    return replace(DEFAULT_LIMITS, **{name: value for name, value in given.items() if value is not None})


def data_limits(max_pixels: int | None, max_bytes: int | None) -> dict[str, str]:
    """Returns --max-pixels and --max-bytes as settings of a run."""
    given = {"data.max_pixels": max_pixels, "data.max_bytes": max_bytes}
    return {name: str(value) for name, value in given.items() if value is not None}


def report_unreadable(names: Sequence[str], folder: Path) -> None:
    """Prints on standard error how many images of a run could not be read."""
    if names:
        shown = shortened(list(names))
        print(f"vitkit: {len(names)} images could not be read: {shown}; {folder / 'report.html'} lists them",
              file=sys.stderr)  # fmt: skip


def shows_progress() -> bool:
    """Returns whether standard error is a terminal and standard output is not, to show progress."""
    return sys.stderr.isatty() and not sys.stdout.isatty()


def json_line(row: Json) -> str:
    """Returns one line of JSON in characters that the encoding of standard output supports."""
    return json.dumps(row, ensure_ascii=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")


def count_failures(outcomes: Iterable["Outcome"]) -> int:
    """Consumes the outcomes, prints the number of failures and returns the exit code (2 after failures)."""
    total = failed = 0
    for outcome in outcomes:
        total += 1
        failed += outcome.error is not None
    if failed:
        print(f"vitkit: {failed} of {total} images could not be read", file=sys.stderr)
    return 2 if failed else 0
