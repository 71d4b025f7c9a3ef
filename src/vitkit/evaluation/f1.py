"""Precision, recall and F1 of predicted labels, for images with several labels or one class."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluation import ModelOutputs, Predictions
from vitkit.evaluation.requirements import EvaluationData
from vitkit.task import Task


@dataclass(frozen=True)
class LabelResult:
    """Number of images, precision, recall, F1 and threshold of a label. Undefined values are 0."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float
    threshold: float


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if no image has a label."""
    _ = data.counts
    return ("micro", "macro", "precision", "recall", "exact")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns `micro` F1 with its `precision` and `recall`, `macro` F1 (mean over labels), and `exact` matches.

    `exact` is the fraction of images whose predicted labels are exactly the true ones. Labels without images are
    excluded from `macro`. Raises ValueError if no image has a label.
    """
    return metrics(subject.predictions, subject.classes)


def metrics(predictions: Predictions, names: tuple[str, ...]) -> dict[str, float]:
    """Returns the metrics of `evaluate` for the predicted labels of all images."""
    results = [each for each in per_label(predictions, names) if each.images]
    if not results:
        raise ValueError("none of the images has a label; evaluation needs labeled images")
    chosen, truth = predictions.task.decisions(predictions.logits), predictions.targets > 0
    hits, predicted, actual = int((chosen & truth).sum()), int(chosen.sum()), int(truth.sum())
    return {
        "micro": 2 * hits / (predicted + actual),
        "macro": sum(each.f1 for each in results) / len(results),
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / actual,
        "exact": (chosen == truth).all(dim=1).double().mean().item(),
    }


def per_label(predictions: Predictions, names: tuple[str, ...]) -> list[LabelResult]:
    """Returns precision, recall and F1 of each label, for the predicted labels of all images."""
    chosen, truth = predictions.task.decisions(predictions.logits), predictions.targets > 0
    threshold = predictions.task.threshold
    thresholds = threshold if isinstance(threshold, tuple) else (threshold,) * len(names)
    counts = torch.stack([(chosen & truth).sum(dim=0), chosen.sum(dim=0), truth.sum(dim=0)], dim=1).tolist()
    return [
        LabelResult(
            name=name,
            images=actual,
            precision=hits / predicted if predicted else 0.0,
            recall=hits / actual if actual else 0.0,
            f1=2 * hits / (actual + predicted) if actual + predicted else 0.0,
            threshold=limit,
        )
        for name, limit, (hits, predicted, actual) in zip(names, thresholds, counts, strict=True)
    ]


def best_thresholds(predictions: Predictions) -> tuple[float, ...]:
    """Returns the threshold of each label that gives the highest F1 on these images.

    If several thresholds have the same F1, the one closest to 0.5 is returned. A label without images keeps its
    threshold. Raises ValueError unless labels are independent.
    """
    task = predictions.task
    check_tunable(task, predictions.targets.shape[1])
    scores, truth = task.scores(predictions.logits.double()), predictions.targets > 0
    given = task.threshold if isinstance(task.threshold, tuple) else (task.threshold,) * truth.shape[1]
    return tuple(
        _best(column, true) if true.any() else threshold
        for column, true, threshold in zip(scores.T, truth.T, given, strict=True)
    )


def check_tunable(task: Task, outputs: int) -> None:
    """Raises ValueError unless the labels of a model are independent, so that each has a threshold."""
    if task.function(outputs) != "sigmoid":
        raise ValueError(
            f"thresholds can be tuned only for multi-label models, but the model's task is {task.problem_type}"
        )


def _best(scores: Float[Tensor, " n"], true: Tensor) -> float:
    """Returns the threshold with the highest F1 for one label. It lies between two consecutive scores."""
    ordered, order = scores.sort(descending=True, stable=True)
    hits = true[order].double().cumsum(dim=0)
    f1 = 2 * hits / (torch.arange(1, hits.shape[0] + 1) + hits[-1])
    below = torch.cat([ordered[1:], ordered.new_zeros(1)])
    f1[ordered == below] = -1.0  # a threshold cannot separate equal scores
    # Rounded to four decimals, unless the rounded threshold would pass a score.
    middle = (ordered + below) / 2
    rounded = (middle * 1e4).round() / 1e4
    limits = torch.where((rounded <= ordered) & (rounded > below), rounded, middle)
    limits = torch.where((ordered >= 0.5) & (below < 0.5), torch.full_like(limits, 0.5), limits)
    candidates = limits[f1 >= f1.max() - 1e-12]
    return float(candidates[(candidates - 0.5).abs().argmin()])
