"""Confusion matrix, and precision, recall and F1 for each class."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vitkit.evaluation import ModelOutputs, Predictions
from vitkit.evaluation.requirements import EvaluationData

PROBLEM_TYPES = ("single_label_classification",)


@dataclass(frozen=True)
class ClassResult:
    """Number of images, precision, recall and F1 of a class. Undefined values are 0."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if no image has a label."""
    _ = data.counts
    return ("mean_recall", "mean_f1", "worst_recall")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns `mean_recall` (balanced accuracy), `mean_f1` and `worst_recall` of the classes.

    Classes without images are excluded.
    """
    results = [result for result in per_class(matrix(subject.predictions), subject.classes) if result.images]
    if not results:
        raise ValueError("none of the images has a label; evaluation needs labeled images")
    recalls = [result.recall for result in results]
    return {
        "mean_recall": sum(recalls) / len(recalls),
        "mean_f1": sum(result.f1 for result in results) / len(results),
        "worst_recall": min(recalls),
    }


def matrix(predictions: Predictions) -> Int[Tensor, "classes classes"]:
    """Returns the confusion matrix: numbers of images by true class (rows) and predicted class (columns).

    An image with several labels counts only for its first label.
    """
    num = predictions.targets.shape[1]
    labelled = predictions.targets.sum(dim=1) > 0
    truth, predicted = predictions.targets.argmax(dim=1)[labelled], predictions.logits.argmax(dim=1)[labelled]
    return torch.bincount(truth * num + predicted, minlength=num * num).reshape(num, num)


def per_class(counts: Int[Tensor, "classes classes"], names: tuple[str, ...]) -> list[ClassResult]:
    """Returns the number of images, precision, recall and F1 of each class in a confusion matrix."""
    results = []
    for index, name in enumerate(names):
        correct, actual, predicted = (int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum()))
        results.append(
            ClassResult(
                name=name,
                images=actual,
                precision=correct / predicted if predicted else 0.0,
                recall=correct / actual if actual else 0.0,
                f1=2 * correct / (actual + predicted) if actual + predicted else 0.0,
            )
        )
    return results
