"""Helpers for commands: config settings, image arguments and exit codes."""

import codecs
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit.cli._options import TrainingOptions, settings
from vitkit.config import Json
from vitkit.images import Unlisted, sniff
from vitkit.inference.expand import expand
from vitkit.logs import LOGGER
from vitkit.text import json_text, plural, printable, shortened

if TYPE_CHECKING:
    from vitkit.api._runs import TrainedRun
    from vitkit.inference.results import Result


# Options that --resume accepts.
RESUME = ("steps", "epochs", "minutes", "patience", "device", "parallel")
# Characters of no text, and the length of a path (4096 bytes on Linux).
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
MAX_NAME = 4096


def _is_long(name: str) -> bool:
    return 5 <= len(name) <= MAX_NAME


class StandardInput(bytes):
    """An image read from standard input. Its name in the output is `-`."""

    name = "-"

    def __str__(self) -> str:
        return self.name


def arguments_to_images(arguments: Sequence[str]) -> list[str | bytes | Unlisted]:
    """Expands image arguments to images. An argument that matches no image is replaced by an error."""
    if not arguments:
        raise ValueError("give at least one image: a file, a folder, a glob, or - for standard input")
    return [image for argument in arguments for image in (_standard_input() if argument == "-" else expand([argument]))]


def _standard_input() -> Iterator[str | bytes | Unlisted]:
    if sys.stdin is None:
        raise ValueError("standard input is closed; expected an image, or one path per line")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard input") from None
    if not data.strip(b"\0 \t\r\n"):
        raise ValueError("standard input is empty; expected an image, or one path per line")
    names = _names(data)
    if names is None:
        yield StandardInput(data)
    else:
        yield from expand(names)


def _names(data: bytes) -> list[str] | None:
    """Returns the paths in data from standard input (one per line, or separated by NUL), or None for image data.

    Names are bytes of any encoding. Data are a list if names in it exist, or if they do not look like an image: they
    have no signature of a format, and no control characters.
    """
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):  # a list that PowerShell wrote
            try:
                data = data.decode(encoding).encode("utf-8", "surrogateescape")
            except ValueError:
                break
    data = data.removeprefix(codecs.BOM_UTF8)
    parts = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    names = [os.fsdecode(part) for part in parts if part.strip()]
    # Short parts of an unknown image might exist by chance.
    if any(os.path.lexists(name) for name in [*names[:1], *islice(filter(_is_long, names), MAX_NAME)]):
        return names
    if sniff(data) is not None or max(map(len, names)) > MAX_NAME or _CONTROL.search(b"".join(parts)):
        return None
    return names


def report_unreadable(names: Sequence[str], file: Path) -> None:
    """Prints the number of unreadable images in a run on standard error, and the file that lists them."""
    if names:
        shown = shortened(list(names))
        print(f"vitkit: {plural(len(names), 'image')} could not be read: {shown}; {file} lists them",
              file=sys.stderr)  # fmt: skip


def training_arguments(training: TrainingOptions) -> dict[str, Any]:
    """Converts the given options, except --resume, to arguments of `vitkit.train` or `vitkit.finetune`."""
    found = {name: value for name, value in vars(training).items() if value is not None and value is not False}
    found.pop("resume", None)
    return found | {"settings": settings(found.pop("set"))}


def resumed(training: TrainingOptions, others: Mapping[str, object]) -> "TrainedRun":
    """Resumes the run in the folder of --resume.

    Raises ValueError if any argument in `others` is given as well.
    """
    from vitkit.api.resume import resume

    given = training_arguments(training)
    taken = {name: given.pop(name) for name in RESUME if name in given}
    named = [name for name, value in others.items() if value]
    named += [f"--{name.replace('_', '-')}" for name in given if name != "settings"]
    if named:
        raise ValueError(
            f"--resume takes everything from the folder '{training.resume}' and cannot be combined with "
            f"{' and '.join(named)}; it accepts --steps, --epochs, --minutes, --patience, --device, --parallel, --set"
        )
    return resume(training.resume or "", **taken, settings=given["settings"], progress=True)


def finished(run: "TrainedRun") -> None:
    """Prints the result of a training run, and the number of unreadable images."""
    if run.main:
        report_unreadable(run.unreadable, run.report)
        note = f" ({run.note})" if run.note else ""
        print(printable(f"{run.best}: {run.summary}{note}; see {run.report}"))


def report_errors(errors: Sequence[Exception | str]) -> int:
    """Prints each error as one line to standard error. Returns the number of errors."""
    for error in errors:
        LOGGER.warning("%s", printable(error))
    return len(errors)


def shows_progress() -> bool:
    """Returns whether to show progress, which requires that only standard error is a terminal, not standard output."""
    return sys.stderr.isatty() and not sys.stdout.isatty()


def json_line(row: Json) -> str:
    """Returns one line of JSON. Characters that the encoding of standard output does not support are escaped."""
    return json_text(row, ascii_only=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")


def count_failures(results: Iterable["Result"]) -> int:
    """Consumes the results, prints the number of failures to standard error and returns the exit code.

    The exit code is 0 if no image failed, 1 if all images failed, and 2 if only some failed.
    """
    total, failed, first = 0, 0, ""
    for result in results:
        total += 1
        if result.error is not None:
            failed += 1
            first = first or printable(f"{result.name}: {result.error}")
    if failed:
        which = "" if failed == 1 else "the first is "
        LOGGER.warning("%s of %s images could not be read: %s%s", failed, total, which, first)
    return 0 if not failed else 1 if failed == total else 2
