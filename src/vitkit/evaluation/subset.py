"""Accuracy on a subset of the model's classes, as for ImageNet-A, ImageNet-R and ObjectNet.

The logits of all other classes are removed, so the model cannot predict them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vitkit.data.labels import class_indices
from vitkit.evaluation import ModelOutputs, Predictions, top1
from vitkit.evaluation.requirements import EvaluationData
from vitkit.regular import read_text


def check(data: EvaluationData, classes: str = "") -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if a class is invalid, or if no class has images."""
    chosen = read(Path(classes), data.source.classes) if classes else data.counts.nonzero()[0].tolist()
    if not data.counts[chosen].any():
        raise ValueError(f"no image belongs to one of the {len(chosen)} classes listed in '{classes}'")
    return ("accuracy", "loss", "images", *(("top5",) if len(chosen) > 5 else ()), "classes")


PROBLEM_TYPES = ("single_label_classification",)


def evaluate(subject: ModelOutputs, classes: str = "") -> dict[str, float]:
    """Returns the metrics of the evaluator `top1`, restricted to the classes listed in a file.

    Without a file, the classes are those of the images. The metric `classes` is the number of classes. Images of other
    classes are excluded.
    """
    predictions = subject.predictions
    chosen = read(Path(classes), subject.classes) if classes else present_classes(predictions)
    return {**top1.metrics(restrict(predictions, chosen)), "classes": float(len(chosen))}


def read(path: Path, classes: Sequence[str]) -> list[int]:
    """Reads class indices from a file: a JSON list of classes, or text with one class per line.

    Classes are indices, names, or WordNet ids of ImageNet-1k. Raises ValueError for a class that the model does not
    have, and for an empty list.
    """
    text = read_text(path)
    listed = json.loads(text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    entries = [str(each) for each in listed if str(each)]
    if not entries:
        raise ValueError(f"'{path}' lists no classes; expected at least one")
    named = iter(class_indices([entry for entry in entries if not entry.isdecimal()], tuple(classes), name=str(path)))
    chosen = [int(entry) if entry.isdecimal() else next(named) for entry in entries]
    invalid = [each for each in chosen if each >= len(classes)]
    if invalid:
        raise ValueError(f"'{path}' lists the class {invalid[0]}; the model has the classes 0 to {len(classes) - 1}")
    return sorted(set(chosen))


def present_classes(predictions: Predictions) -> list[int]:
    """Returns the indices of the classes that have at least one image."""
    return predictions.targets.sum(dim=0).nonzero()[:, 0].tolist()


def restrict(predictions: Predictions, classes: Sequence[int]) -> Predictions:
    """Restricts predictions to some classes. Images of other classes get zero targets."""
    columns = list(classes)
    return Predictions(
        logits=predictions.logits[:, columns], targets=predictions.targets[:, columns], keys=predictions.keys
    )
