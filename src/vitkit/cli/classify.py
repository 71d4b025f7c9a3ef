"""The `vitkit classify` command."""

import csv as csv_format
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vitkit.config import JsonDict
from vitkit.text import printable

if TYPE_CHECKING:
    import numpy as np

    from vitkit.inference import Outcome, Prediction
    from vitkit.task import Function

    Rows = Iterator[tuple[Outcome, list[Prediction]]]


def classify(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    top: int = 5,
    threshold: float | None = None,
    json: bool = False,
    csv: bool = False,
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = "auto",
    merge_tokens: int = 0,
    resampling: Literal["pillow", "torch", "draft"] = "pillow",
    compile: bool = False,  # noqa: A002 - the option's name
    device: str = "auto",
    batch_size: int | None = None,
    image_size: int | None = None,
    revision: str | None = None,
    set: tuple[str, ...] = (),  # noqa: A002 - the option's name
    allow_truncated: bool = False,
    max_pixels: int | None = None,
    max_bytes: int | None = None,
) -> int:
    """Classify images.

    Prints the most likely classes of every image. For a multi-label model, `*` marks the labels whose score reaches the
    model's threshold. For a regression model, the predicted values are printed. An image that cannot be read is
    reported, the others are still classified, and the exit code is 2.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        images: Image files, folders or globs, or - for standard input (one image, or one path per line).
        top: Number of classes to print per image, the most likely first.
        threshold: For multi-label models: print only the labels whose score is at least this value, from 0 to 1.
        json: Print one line of JSON per image.
        csv: Print CSV with a header, one row per image and class.
        precision: Numerical precision. With auto, the fastest precision with outputs close to those of float32 is used.
            An int8 model is calibrated on the first images. float8 requires a GPU.
        merge_tokens: Number of tokens to merge in each block (ToMe). This is faster but changes the outputs.
        resampling: Resize images as in Pillow or PyTorch. With draft, Pillow decodes large JPEG files at reduced size.
        compile: Compile the model with torch.compile, which takes a minute or more.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Number of images per batch. If not set: 8 on a CPU, 64 on a GPU.
        image_size: Input size in pixels. If not set: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hugging Face Hub.
        set: Set model config fields that are missing from the checkpoint, as NAME=VALUE, such as num_heads=12.
        allow_truncated: Decode truncated image files instead of reporting an error.
        max_pixels: Largest accepted image, in pixels (width x height). If not set: 120,000,000.
        max_bytes: Largest accepted image file, in bytes. If not set: 200,000,000.
    """
    from vitkit.cli._outcomes import arguments_to_images, count_failures, limits, load_model, shows_progress
    from vitkit.inference import Predictor, check_threshold, top_predictions

    if json and csv:
        raise ValueError("choose either --json or --csv, not both")
    if top < 1:
        raise ValueError(f"--top is {top}; it must be at least 1")
    sources = arguments_to_images(images)
    classifier = load_model(model, revision, image_size, set)
    if not classifier.labels:
        raise ValueError(f"the model '{model}' has no classes; use `vitkit embed` for its features")
    task = classifier.config.task
    if threshold is not None:
        check_threshold(task, len(classifier.labels), threshold)
    predictor = Predictor(
        classifier.model,
        classifier.processor,
        precision=precision,
        merge_tokens=merge_tokens,
        resampling=resampling,
        compile=compile,
        device=device,
        batch_size=batch_size,
        allow_truncated=allow_truncated,
        limits=limits(max_pixels, max_bytes),
        progress=shows_progress(),
    )

    def decoded(output: "np.ndarray") -> list["Prediction"]:
        return top_predictions(output, classifier.labels, top, task=task, threshold=threshold)

    rows = ((each, [] if each.output is None else decoded(each.output)) for each in predictor.logits(sources))
    write = _write_json if json else _write_csv if csv else _write_table
    return count_failures(write(rows, task.function(len(classifier.labels))))


def _write_json(rows: "Rows", function: "Function") -> Iterator["Outcome"]:
    from vitkit.cli._outcomes import json_line

    names = {"softmax": ("score",), "sigmoid": ("score", "predicted"), "none": ("value",)}[function]
    for outcome, predictions in rows:
        line: JsonDict = {"path": str(outcome.source)}
        if outcome.error is not None:
            line["error"] = {"code": outcome.error.code, "message": str(outcome.error)}
        else:
            fields = ("label", "index", *names)
            line["predictions"] = [{name: getattr(each, name) for name in fields} for each in predictions]
        print(json_line(line), flush=True)
        yield outcome


def _write_csv(rows: "Rows", function: "Function") -> Iterator["Outcome"]:
    columns = {"softmax": ["score"], "sigmoid": ["score", "predicted"], "none": ["value"]}[function]
    writer = csv_format.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "index", *columns, "error"])
    for outcome, predictions in rows:
        if outcome.error is not None:
            writer.writerow([printable(outcome.source), "", "", "", *([""] * len(columns)), outcome.error.code])
        for rank, each in enumerate(predictions, start=1):
            values = [f"{each.score:.6f}", str(each.predicted).lower()] if each.value is None else [f"{each.value:.9g}"]
            row = [printable(outcome.source), rank, printable(each.label), each.index, *values[: len(columns)], ""]
            writer.writerow(row)
        yield outcome


def _write_table(rows: "Rows", function: "Function") -> Iterator["Outcome"]:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for outcome, predictions in rows:
        console.print(Text(printable(outcome.source), style="bold"))
        if outcome.error is not None:
            console.print(Text(f"  cannot be read: {printable(outcome.error)}", style="red"))
        elif not predictions:
            console.print(Text("  no label reaches the threshold"))
        for each in predictions:
            label = printable(each.label)
            if each.value is not None:
                console.print(Text(f"  {each.value:12.6g}  {label}"))
                continue
            filled = round(20 * each.score)
            mark = "" if function == "softmax" else "* " if each.predicted else "  "
            console.print(Text(f"  {each.score:6.1%}  {'#' * filled}{'.' * (20 - filled)}  {mark}{label}"))
        yield outcome
