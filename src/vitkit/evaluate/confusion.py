"""Which classes are taken for which, and how well each class is found, so that rare classes count as much as common
ones.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vitkit.evaluate import Predictions, Subject


@dataclass(frozen=True)
class ClassResult:
    """One class: how many pictures have it, and its precision, recall and F1; 0 where there is nothing to divide by."""

    name: str
    pictures: int
    precision: float
    recall: float
    f1: float


def evaluate(subject: Subject) -> dict[str, float]:
    """`mean_recall` (balanced accuracy), `mean_f1` and `worst_recall`, over the classes that have pictures."""
    results = [result for result in per_class(matrix(subject.predictions), subject.classes) if result.pictures]
    if not results:
        raise ValueError("none of the pictures has a label")
    recalls = [result.recall for result in results]
    return {
        "mean_recall": sum(recalls) / len(recalls),
        "mean_f1": sum(result.f1 for result in results) / len(results),
        "worst_recall": min(recalls),
    }


def matrix(predictions: Predictions) -> Int[Tensor, "classes classes"]:
    """How many pictures of each class (rows: the first of the truest) were taken for each class (columns)."""
    num = predictions.targets.shape[1]
    labelled = predictions.targets.sum(dim=1) > 0
    truth, guess = predictions.targets.argmax(dim=1)[labelled], predictions.logits.argmax(dim=1)[labelled]
    return torch.bincount(truth * num + guess, minlength=num * num).reshape(num, num)


def per_class(counts: Int[Tensor, "classes classes"], names: tuple[str, ...]) -> list[ClassResult]:
    """Precision, recall and F1 of each class of a confusion matrix."""
    results = []
    for index, name in enumerate(names):
        right, true, guessed = (int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum()))
        results.append(
            ClassResult(
                name=name,
                pictures=true,
                precision=right / guessed if guessed else 0.0,
                recall=right / true if true else 0.0,
                f1=2 * right / (true + guessed) if true + guessed else 0.0,
            )
        )
    return results
