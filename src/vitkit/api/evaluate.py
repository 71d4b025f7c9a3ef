"""`vitkit.evaluate`: evaluates a model on labeled images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vitkit.api._model import Model, Precision, Size, opened
from vitkit.api._runs import Name, source_name
from vitkit.data import source_of
from vitkit.data.fixes import read_fixes, summary
from vitkit.evaluation import default_evaluators, protocol
from vitkit.evaluation.protocol import Evaluation
from vitkit.images import DEFAULT_LIMITS, ImageError, Limits
from vitkit.inference import Predictor
from vitkit.logs import LOGGER
from vitkit.report import evaluation as report
from vitkit.text import plural

if TYPE_CHECKING:
    from vitkit.data.processor import Processor

T = TypeVar("T")
# Images for the calibration of int8.
CALIBRATION = 32


def evaluate(
    model: Model,
    data: Name,
    *,
    evaluators: str | Sequence[str] = "auto",
    train: Name | None = None,
    fix: Name | None = None,
    held_out: float | None = None,
    seed: int = 0,
    tune_threshold: bool = False,
    out: Name | None = None,
    precision: Precision = "auto",
    merge_tokens: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int = 0,
    limits: Limits | None = None,
    max_unreadable: float = 0.1,
    image_size: Size | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluates a model on labeled images, and returns its metrics and predictions.

    Classes of the data are matched to labels of the model by name. WordNet ids match the ImageNet classes. Unreadable
    images are logged and left out. The attribute `unreadable` of the result lists them.

    Args:
        model: A classifier of `vitkit.load`, a folder, a file or a Hub id such as google/vit-base-patch16-224.
        data: Images to evaluate on: a folder with one folder per class, a .csv, .jsonl, .parquet or .tar file, or the
            name of a data source such as `hub:cifar10`. If the data has splits, the val or test split is used.
        evaluators: Names of evaluators, such as `"top1"` or `["top1", "knn"]`. With "auto", they depend on the task.
        train: Training images of the evaluators knn, fewshot, probe and linear. If None: the train split of `data`.
        fix: CSV file of corrections, such as the fixes.csv of a report: images to relabel or to drop, by their keys.
        held_out: Fraction of the images of each class to evaluate on. The other images are used as training images,
            like those of `train`.
        seed: Seed of the held-out split.
        tune_threshold: For multi-label models: also find the decision threshold with the highest F1 score for each
            label, as `threshold` of the result.
        out: Folder for evaluation.json and report.html. If None: nothing is written.
        precision: Numerical precision. "auto" uses the fastest precision whose outputs are close to those of float32.
        merge_tokens: Number of tokens to merge in each block (ToMe). This is faster but changes the outputs.
        device: Device to run on: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Number of images per batch. If None: 8 on a CPU, 64 on a GPU.
        workers: Number of processes that load images. With 0, the main process loads them.
        limits: Limits of image files, such as `vitkit.Limits(max_pixels=400_000_000)`.
        max_unreadable: Largest accepted fraction of unreadable images. Up to 10 unreadable images are always accepted.
        image_size: Input size in pixels, a number or (height, width). If None: the image size of the model.
        revision: Branch, tag or commit of the repository on the Hub.
        config: Fields of the model config that the checkpoint does not state, such as {"num_heads": 12}.
        progress: Show a progress bar on standard error.

    Raises:
        ValueError: The evaluators do not support the model or the data, or too many images are unreadable.

    Example:
        >>> found = vitkit.evaluate("runs/flowers/best", "flowers/val", out="runs/flowers/evaluation")
        >>> found.metrics["top1.accuracy"]
        0.93...
        >>> found.predictions.scores  # one row per image, in the order of found.predictions.keys
    """
    classifier = opened(model, revision=revision, image_size=image_size, config=config)
    name, source, training = _model_name(model), source_of(data), source_name(train)
    limits = limits or DEFAULT_LIMITS
    words = [word.strip() for word in evaluators.split(",")] if isinstance(evaluators, str) else list(evaluators)
    auto = default_evaluators(classifier.config.task)
    plan: dict[str, Any] = {
        "data": source,
        "train": training,
        "evaluators": tuple(one for word in words if word for one in (auto if word == "auto" else (word,))),
        "held_out": held_out,
        "seed": seed,
        "workers": workers,
        "limits": limits,
        "max_unreadable": max_unreadable,
        "tune_threshold": tune_threshold,
        "fixes": () if fix is None else read_fixes(fix),
    }
    protocol.EvaluationConfig(**plan)  # raise errors before the model is prepared
    placed = Predictor(
        classifier.model,
        classifier.processor,
        precision=precision,
        merge_tokens=merge_tokens,
        calibration=_some(training or source, classifier.processor, limits) if precision == "int8" else (),
        device=device,
        batch_size=batch_size,
    )
    settings = protocol.EvaluationConfig(**plan, batch_size=placed.batch_size)
    wrap = _progress if progress else None
    found = protocol.run(name, placed.model, classifier.processor, classifier.labels, settings, wrap)
    if out is not None:
        report.write(found, Path(out))
    if note := summary(*(each for each in (found.source, found.training) if each is not None)):
        LOGGER.warning(note)
    _log_unreadable(found.unreadable)
    return replace(found, summary=placed.summary)


def _model_name(model: Model) -> str:
    """Returns the name of a model for reports: the source that it was loaded from, or "model"."""
    origin = getattr(model, "origin", None)
    return (
        str(origin.source if origin is not None and origin.source else "model")
        if hasattr(model, "origin")
        else str(model)
    )


def _log_unreadable(names: Sequence[str]) -> None:
    for each in names:
        LOGGER.warning(each)
    if names:
        LOGGER.warning(f"{plural(len(names), 'image')} could not be read and left out")


def _some(data: str, processor: "Processor", limits: Limits) -> Iterator[object]:
    """Yields about 32 evenly spaced images of a dataset, from its train split if it has one.

    Images that cannot be read are logged and left out.
    """
    from vitkit.data import splits
    from vitkit.data.augment import read_options

    found = splits(data)
    source, options = found.get("train") or next(iter(found.values())), read_options(processor)
    for index in range(0, len(source), max(len(source) // CALIBRATION, 1)):
        try:
            yield source.read(index, **{**options, "limits": limits}).image
        except ImageError as error:
            LOGGER.warning(f"calibration image {index}: {error}")


def _progress(batches: Iterable[T], total: int) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:  # rich 13 ends even a disabled bar with an empty line
        return batches
    return track(batches, "images", total=total, console=console, transient=True)
