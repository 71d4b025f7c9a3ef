"""`Prediction`, a predicted class, label or value of an image, and functions that decode logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitkit.task import Task
from vitkit.text import percent, printable


@dataclass(frozen=True)
class Prediction:
    """A predicted class or label with its score, or the predicted value of a regression target.

    label      name of the class, label or target
    index      its index among the outputs of the model
    score      softmax (one label per image) or sigmoid (independent labels), between 0 and 1; for a regression the
               predicted value, in the units of the targets
    predicted  whether it is the highest score, or at least the threshold of an independent label
    value      the predicted value of a regression, None for labels
    """

    label: str
    index: int
    score: float
    predicted: bool = False
    value: float | None = None

    def __str__(self) -> str:
        return f"{printable(self.label)} {percent(self.score) if self.value is None else format(self.value, '.6g')}"


def top_predictions(
    logits: np.ndarray, labels: Sequence[str], top: int, *, task: Task, threshold: float | None = None
) -> list[Prediction]:
    """Returns the `top` classes or labels with the highest scores, best first.

    For a regression it returns the values of the first `top` targets, in their order. With `threshold`, only labels
    with at least this score are returned. Raises ValueError for a threshold unless labels are independent.
    """
    if logits.ndim != 1:
        raise ValueError(f"the logits of an image have shape {logits.shape}; expected a vector of shape (classes,)")
    check_labels(logits, labels)
    scores = task.scores(logits)
    if threshold is not None:
        check_threshold(task, logits.shape[0], threshold)
    if task.regression:
        values = enumerate(scores[:top].tolist())
        return [Prediction(label=labels[index], index=index, score=value, value=value) for index, value in values]
    predicted = task.with_threshold(threshold).decisions(logits)
    # Logits have the order of the scores, but no ties by rounding.
    best = map(int, np.argsort(-logits, kind="stable")[:top])
    return [
        Prediction(label=labels[index], index=index, score=float(scores[index]), predicted=bool(predicted[index]))
        for index in best
        if threshold is None or predicted[index]
    ]


def check_threshold(task: Task, outputs: int, threshold: float) -> None:
    """Raises ValueError if a threshold is out of range, or if the model is not a multi-label classifier."""
    if task.function(outputs) != "sigmoid":
        kind = "predicts numbers" if task.regression else "has classes that exclude each other"
        raise ValueError(f"threshold is {threshold}, but the model {kind}; a threshold needs a multi-label model")
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}; it must be between 0 and 1")


def check_labels(logits: np.ndarray, labels: Sequence[str]) -> None:
    """Raises ValueError if the number of labels differs from the number of model outputs."""
    if logits.shape[-1] != len(labels):
        raise ValueError(
            f"the model has {logits.shape[-1]} outputs, but there are {len(labels)} labels; replace a head with "
            "model.reset_head(classes), and set one label per output"
        )
