"""The `vitkit evaluate` command."""

import sys
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from vitkit.cli._arguments import Joined
from vitkit.cli._options import CheckpointOptions, ImageOptions, InferenceOptions

if TYPE_CHECKING:
    from vitkit.evaluation.protocol import Evaluation


def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    *,
    data: str,
    train: str | None = None,
    fix: Path | None = None,
    evaluators: Annotated[str, Joined(), arg(name="with", metavar="NAME,...")] = "auto",
    out: Path | None = None,
    json: bool = False,
    held_out: float | None = None,
    seed: int = 0,
    tune_threshold: bool = False,
    workers: int = 0,
    max_unreadable: float = 0.1,
    inference: InferenceOptions = InferenceOptions(),  # noqa: B008 - frozen
    checkpoint: CheckpointOptions = CheckpointOptions(),  # noqa: B008 - frozen
    image: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
) -> int:
    """Evaluate a model on labeled images.

    Evaluators of predictions: `top1` (and top-5), `confusion`, `calibration`, `average_precision` and `f1` (for images
    with several labels), `regression` (MAE, RMSE and R2 of numbers), `real:FILE` (accuracy with a JSON file of labels,
    such as ReaL's real.json), `subset` (accuracy when only the classes of the images can be predicted, as for
    ImageNet-A and ImageNet-R; `subset:FILE` reads these classes from a file). Evaluators of features: `knn`, `fewshot`,
    `probe`, `linear` (DINO's protocol); they need the training images of --train. Evaluators of attention:
    `segmentation:FOLDER`, with one PNG of object ids per image. Evaluator of features without labels: `rank` (RankMe).
    Evaluators of the model itself: `throughput` (`throughput:bfloat16`), `flops`. Dataset classes are matched to model
    labels by name; WordNet ids (n01440764) match the ImageNet classes. If images cannot be read, they are listed and
    left out, and the exit code is 2.

    Args:
        model: Checkpoint: a folder, a weights file, or a Hugging Face Hub id such as google/vit-base-patch16-224.
        data: Images to evaluate on, such as photos/val. If the data has splits, the val split is used, or the
            test split if there is no val split.
        train: Training images for the evaluators knn, fewshot, probe and linear. If not set: the train split of --data.
        fix: CSV file of corrections, such as the fixes.csv of a report: images to relabel or to drop, by their keys.
        evaluators: Comma-separated evaluators, such as top1,knn. With auto, they depend on the task of the model:
            top1, confusion and calibration for single-label classification, average_precision, f1 and calibration
            for multi-label classification, and the evaluator regression for regression.
        out: Output folder for evaluation.json, report.html, predictions.csv and predictions.parquet.
        json: Print one JSON object instead of a table.
        held_out: Fraction of the images of each class to evaluate on. The other images are used as training images,
            like those of --train.
        seed: Random seed of the held-out split.
        tune_threshold: For multi-label models: find the threshold with the highest F1 for each label on these images,
            and save the thresholds in MODEL if MODEL is a local folder. Evaluate the thresholds on other images.
        workers: Number of processes that load images. With 0, the main process loads them.
        max_unreadable: Largest accepted fraction of unreadable images. Up to 10 unreadable images are always accepted.
    """
    from vitkit.api.evaluate import evaluate as start
    from vitkit.cli._outcomes import json_line
    from vitkit.inference import load
    from vitkit.regular import read_text

    limits = image.limits
    found = start(
        load(model, **checkpoint.arguments()),
        data,
        evaluators=evaluators,
        train=train,
        fix=fix,
        held_out=held_out,
        seed=seed,
        tune_threshold=tune_threshold,
        out=out,
        **vars(inference),
        workers=workers,
        limits=limits,
        max_unreadable=max_unreadable,
        progress=True,
    )
    if json:
        # evaluation.json also contains the names of the written files.
        content = found.to_dict() if out is None else loads(read_text(out / "evaluation.json"))
        print(json_line(content))
    else:
        _write_table(found)
        print(found.summary)
        if out is not None:
            print(f"see {out / 'report.html'}")
    if found.threshold is not None:
        _save_threshold(model, found.threshold, checkpoint.set)
    return 2 if found.unreadable else 0


def _save_threshold(model: str, threshold: tuple[float, ...], words: tuple[str, ...]) -> None:
    """Saves thresholds in the folder of a model, or prints a command that saves them in a copy."""
    from vitkit.checkpoints.meaning import save_threshold

    with_task = any(word.startswith("task.") for word in words)
    if not with_task and (saved := save_threshold(model, threshold)) is not None:
        print(f"vitkit: saved the thresholds in {saved}", file=sys.stderr)
        return
    text = ",".join(f"{each:.10g}" for each in threshold)
    reason = "--set changes its task" if with_task else "it is not a local folder with a config.json"
    others = [word for word in words if word.partition("=")[0] != "task.threshold"]
    options = " ".join(f"'{word}'" for word in (*others, f"task.threshold=[{text}]"))
    print(
        f"vitkit: the thresholds are not saved in '{model}', because {reason}; save them in a copy: "
        f"vitkit convert {model} OUT --to vitkit --set {options}",
        file=sys.stderr,
    )


def _write_table(found: "Evaluation") -> None:
    from vitkit.report.evaluation import metric_rows
    from vitkit.tables import table
    from vitkit.text import printable

    rows, last = [], ""
    for evaluator, name, value in metric_rows(found.metrics):
        rows.append(("" if evaluator == last else evaluator, name, value))
        last = evaluator
    training = "" if found.training is None else f", trained on {len(found.training):,}"
    print(printable(f"{found.model} on {found.config.data}: {len(found.source):,} images{training}"))
    print(table(rows, ("evaluator", "metric", "value"), right=(2,)))
