"""`vitkit classify`."""

import csv as csv_format
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vitkit.config import JsonDict

if TYPE_CHECKING:
    from vitkit.inference import Outcome, Prediction


def classify(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE...")],
    *,
    top: int = 5,
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

    Prints the most likely classes of every image. An image that cannot be read is reported, the others are still
    classified, and the exit code is 2.

    Args:
        model: A checkpoint: a folder, a file of any format, or a Hub id such as google/vit-base-patch16-224.
        images: Files, folders, globs, or - for standard input (an image, or one path per line).
        top: Number of classes to show.
        json: Print one JSON object per image, one per line.
        csv: Print CSV, one row per class.
        precision: Arithmetic of the network; auto is the fastest that stays close to float32. int8 is calibrated on the
            first images, float8 needs a GPU.
        merge_tokens: Tokens to merge in every block (ToMe): faster, with different outputs.
        resampling: Resize like `pillow` or `torch`; `draft` decodes large JPEG files at reduced size (faster).
        compile: Compile the network with torch.compile, which takes a minute or more.
        device: Device: auto, cpu, cuda, cuda:1, mps.
        batch_size: Batch size. If not set: 8 on a CPU, 64 on a GPU.
        image_size: Input size in pixels. If not set: the model's.
        revision: Branch, tag or commit of a Hub id.
        set: Fields of the model config that a file does not contain, as NAME=VALUE (pool=none).
        allow_truncated: Accept truncated image files.
        max_pixels: Largest width x height of an image in pixels. If not set: 120,000,000.
        max_bytes: Largest size of an image file in bytes. If not set: 200,000,000.
    """
    from vitkit.cli._outcomes import arguments_to_images, count_failures, limits, load_model, shows_progress
    from vitkit.inference import Predictor, top_predictions

    if json and csv:
        raise ValueError("choose either --json or --csv, not both")
    if top < 1:
        raise ValueError(f"--top is {top}; it must be at least 1")
    sources = arguments_to_images(images)
    classifier = load_model(model, revision, image_size, set)
    if not classifier.labels:
        raise ValueError(f"the model '{model}' has no classes; use `vitkit embed` for its features")
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
    rows = (
        (outcome, top_predictions(outcome.output, classifier.labels, top) if outcome.output is not None else [])
        for outcome in predictor.logits(sources)
    )
    write = _write_json if json else _write_csv if csv else _write_table
    return count_failures(write(rows))


def _write_json(rows: Iterator[tuple["Outcome", list["Prediction"]]]) -> Iterator["Outcome"]:
    from vitkit.cli._outcomes import json_line

    for outcome, predictions in rows:
        line: JsonDict = {"path": str(outcome.source)}
        if outcome.error is not None:
            line["error"] = {"code": outcome.error.code, "message": str(outcome.error)}
        else:
            line["predictions"] = [{"label": p.label, "index": p.index, "score": p.score} for p in predictions]
        print(json_line(line), flush=True)
        yield outcome


def _write_csv(rows: Iterator[tuple["Outcome", list["Prediction"]]]) -> Iterator["Outcome"]:
    writer = csv_format.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "label", "index", "score", "error"])
    for outcome, predictions in rows:
        if outcome.error is not None:
            writer.writerow([outcome.source, "", "", "", "", outcome.error.code])
        for rank, prediction in enumerate(predictions, start=1):
            score = f"{prediction.score:.6f}"
            writer.writerow([outcome.source, rank, prediction.label, prediction.index, score, ""])
        yield outcome


def _write_table(rows: Iterator[tuple["Outcome", list["Prediction"]]]) -> Iterator["Outcome"]:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for outcome, predictions in rows:
        console.print(Text(str(outcome.source), style="bold"))
        if outcome.error is not None:
            console.print(Text(f"  cannot be read: {outcome.error}", style="red"))
        for prediction in predictions:
            filled = round(20 * prediction.score)
            bar = "#" * filled + "." * (20 - filled)
            console.print(Text(f"  {prediction.score:6.1%}  {bar}  {prediction.label}"))
        yield outcome
