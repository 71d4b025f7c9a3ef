"""The `vitkit classify` command."""

import csv as csv_format
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vitkit.cli._options import CheckpointOptions, FileOptions, StreamOptions
from vitkit.text import printable

if TYPE_CHECKING:
    from vitkit.inference import Classification


def classify(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    top: int = 5,
    threshold: float | None = None,
    json: bool = False,
    csv: bool = False,
    out: Path | None = None,
    inference: StreamOptions = StreamOptions(),  # noqa: B008 - frozen
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
    image: FileOptions = FileOptions(),  # noqa: B008 - frozen
) -> int:
    """Classify images.

    Prints the most likely classes of every image. For a multi-label model, `*` marks the labels whose score reaches the
    model's threshold. For a regression model, the predicted values are printed. If an image cannot be read, the error
    is printed, the other images are still classified, and the exit code is 2.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        images: Image files, folders or globs, or - for standard input (one image, or one path per line).
        top: Number of classes to print per image, the most likely first.
        threshold: For multi-label models: print only the labels whose score is at least this value, from 0 to 1.
        json: Print one line of JSON per image.
        csv: Print CSV with a header, one row per image and class.
        out: Write the predictions to this file instead of printing them: .csv, .jsonl (one line per image) or .parquet.
    """
    import warnings

    from vitkit.api.classify import classify as classify_images
    from vitkit.cli._outcomes import arguments_to_images, count_failures, shows_progress
    from vitkit.inference import Classifications, UntrainedHeadWarning, load

    if json and csv:
        raise ValueError("choose either --json or --csv, not both")
    if out is not None and (json or csv):
        raise ValueError(f"--out writes the table to a file; omit {'--json' if json else '--csv'}")
    if top < 1:
        raise ValueError(f"--top is {top}; it must be at least 1")
    if out is not None:
        Classifications.check_path(out)
    sources = arguments_to_images(images)
    classifier = load(model, **checkpoint.arguments())
    if not classifier.labels:
        raise ValueError(f"the model '{model}' has no classes; use `vitkit embed` for its features")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedHeadWarning)  # the notes of the checkpoint contain this message
        results = classify_images(
            classifier,
            sources,
            top=top,
            threshold=threshold,
            errors="yield",
            stream=True,
            **vars(inference),
            allow_truncated=image.allow_truncated,
            limits=image.limits,
            progress=shows_progress(),
        )
    if out is not None:
        return _save(results, out)
    names = [str(source) for source in sources]
    write = _write_json(results) if json else _write_csv(results) if csv else _write_table(results, names)
    return count_failures(write)


def _save(results: "Iterator[Classification]", out: Path) -> int:
    from vitkit.cli._outcomes import count_failures
    from vitkit.inference import Classifications
    from vitkit.text import plural

    found: list[Classification] = []

    def collected() -> "Iterator[Classification]":
        for result in results:
            found.append(result)
            yield result

    code = count_failures(collected())
    Classifications(found).save(out)
    print(printable(f"{out}: predictions for {plural(sum(each.error is None for each in found), 'image')}"))
    return code


def _write_json(results: "Iterator[Classification]") -> "Iterator[Classification]":
    from vitkit.cli._outcomes import json_line

    for result in results:
        print(json_line(result.to_dict()), flush=True)
        yield result


def _write_csv(results: "Iterator[Classification]") -> "Iterator[Classification]":
    writer = csv_format.writer(sys.stdout, lineterminator="\n")
    for position, result in enumerate(results):
        if position == 0:
            writer.writerow(result.columns)
        writer.writerows(result.csv_rows())
        yield result


def _write_table(results: "Iterator[Classification]", names: Sequence[str]) -> "Iterator[Classification]":
    """Prints the predictions of each image. On a terminal, shortens lines to its width."""
    from rich.console import Console
    from rich.text import Text

    from vitkit.screen import terminal_width
    from vitkit.text import fit, fit_all

    console, width = Console(highlight=False, soft_wrap=True), terminal_width()
    titles = [printable(name) for name in names]
    titles = titles if width is None else fit_all(titles, width)
    for position, result in enumerate(results):
        title = titles[position] if position < len(titles) else printable(result.name)
        console.print(Text(title, style="bold"))
        for line in result.lines():
            text = f"  {line}"
            console.print(Text(text if width is None else fit(text, width), style="red" if result.error else ""))
        yield result
