"""Accuracy among some of the model's classes: how ImageNet-A, ImageNet-R and ObjectNet are judged (200, 200 and 113).

The logits of all other classes are left out, so that the model cannot answer what the set does not ask.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from vitkit.data.labels import numbers_of
from vitkit.evaluate import Predictions, Subject, top1


def evaluate(subject: Subject, classes: str = "") -> dict[str, float]:
    """As `top1` among the classes that a file lists, or, without a file, those that the pictures have.

    Also `classes`, how many those are. Pictures of other classes are left out.
    """
    predictions = subject.predictions
    chosen = read(Path(classes), subject.classes) if classes else present(predictions)
    return {**top1.numbers(restricted(predictions, chosen)), "classes": float(len(chosen))}


def read(path: Path, classes: Sequence[str]) -> list[int]:
    """The classes a file lists: a JSON list, or one a line; numbers, names, or ImageNet-1k's WordNet ids.

    Raises ValueError for what the model does not have, and where nothing is listed.
    """
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    words = [str(each) for each in found if str(each)]
    if not words:
        raise ValueError(f"'{path}' lists no classes")
    named = iter(numbers_of([word for word in words if not word.isdecimal()], tuple(classes), name=str(path)))
    chosen = [int(word) if word.isdecimal() else next(named) for word in words]
    beyond = [each for each in chosen if each >= len(classes)]
    if beyond:
        raise ValueError(f"'{path}' lists the class {beyond[0]}, the model has the classes 0 to {len(classes) - 1}")
    return sorted(set(chosen))


def present(predictions: Predictions) -> list[int]:
    """The classes that at least one picture has."""
    return predictions.targets.sum(dim=0).nonzero()[:, 0].tolist()


def restricted(predictions: Predictions, classes: Sequence[int]) -> Predictions:
    """The predictions among some classes; pictures of none of them keep an empty row of targets."""
    columns = list(classes)
    return Predictions(
        logits=predictions.logits[:, columns], targets=predictions.targets[:, columns], keys=predictions.keys
    )
