"""Calibration of the predicted probabilities (Guo et al. 2017).

For independent labels, every pair of an image and a label is one binary prediction. Its confidence is the probability
of the predicted outcome (label or no label), and all metrics are means over pairs.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluation import ModelOutputs, Predictions
from vitkit.evaluation.requirements import EvaluationData

BINS = 15


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram. Confidence and accuracy of an empty bin are 0."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if no image has a label."""
    _ = data.counts
    return ("ece", "mce", "brier", "nll", "temperature")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the calibration metrics `ece`, `mce`, `brier`, `nll` and `temperature`.

    `ece` and `mce` are the expected and maximum calibration errors over 15 bins. `temperature` is the divisor of the
    logits that maximizes the likelihood of these images.
    """
    predictions = usable(subject.predictions)
    filled = [each for each in bins(predictions) if each.images]
    gaps = torch.tensor([abs(each.confidence - each.accuracy) for each in filled], dtype=torch.float64)
    counts = torch.tensor([each.images for each in filled], dtype=torch.float64)
    squares = (predictions.task.scores(predictions.logits.double()) - target_distribution(predictions)).square()
    return {
        "ece": (gaps * (counts / counts.sum())).sum().item(),
        "mce": gaps.max().item(),
        "brier": (squares.mean() if independent(predictions) else squares.sum(dim=1).mean()).item(),
        "nll": nll(predictions, predictions.logits.double()),
        "temperature": temperature(predictions),
    }


def independent(predictions: Predictions) -> bool:
    """Returns whether the task is multi-label (one sigmoid per label) instead of single-label (softmax)."""
    return predictions.task.function(predictions.targets.shape[1]) == "sigmoid"


def usable(predictions: Predictions) -> Predictions:
    """Returns the predictions to evaluate: those of labeled images, or all predictions for a multi-label task."""
    return predictions if independent(predictions) else labelled(predictions)


def nll(predictions: Predictions, logits: Float[Tensor, "n classes"]) -> float:
    """Returns the mean negative log-likelihood of the targets for the given logits."""
    truth = target_distribution(predictions)
    if independent(predictions):
        return F.binary_cross_entropy_with_logits(logits, truth).item()
    return F.cross_entropy(logits, truth).item()


def labelled(predictions: Predictions) -> Predictions:
    """Returns the predictions of the labeled images. Raises ValueError if there are none."""
    keep = predictions.targets.sum(dim=1) > 0
    if not keep.any():
        raise ValueError("none of the images has a label; evaluation needs labeled images")
    keys = tuple(key for key, selected in zip(predictions.keys, keep.tolist(), strict=True) if selected)
    return replace(predictions, logits=predictions.logits[keep], targets=predictions.targets[keep], keys=keys)


def bins(predictions: Predictions, num: int = BINS) -> list[Bin]:
    """Returns the bins of a reliability diagram: `num` confidence intervals (low, high] of equal width."""
    if independent(predictions):
        scores = predictions.scores.double().flatten()
        confidence = torch.maximum(scores, 1.0 - scores)
        correct = (scores >= 0.5) == (predictions.targets.flatten() > 0)
    else:
        confidence, guess = predictions.scores.double().max(dim=1)
        correct = predictions.targets.gather(1, guess[:, None])[:, 0] > 0
    # The highest score is never exactly 0, so every image is in one of the half-open ranges.
    indices = (confidence * num).ceil().long().clamp(1, num) - 1
    result = []
    for index in range(num):
        here = indices == index
        images = int(here.sum())
        result.append(
            Bin(
                low=index / num,
                high=(index + 1) / num,
                images=images,
                confidence=confidence[here].mean().item() if images else 0.0,
                accuracy=correct[here].double().mean().item() if images else 0.0,
            )
        )
    return result


def target_distribution(predictions: Predictions) -> Float[Tensor, "n classes"]:
    """Returns targets of 0 or 1 for a multi-label task, otherwise probabilities that sum to 1 for each image."""
    targets = predictions.targets.double()
    if independent(predictions):
        return (targets > 0).double()
    return targets / targets.sum(dim=1, keepdim=True)


def temperature(predictions: Predictions) -> float:
    """Returns the temperature (0.01 to 100) that minimizes the negative log-likelihood of logits / temperature.

    Golden-section search on the logarithm of the temperature finds the minimum, because the likelihood is unimodal.
    """
    logits = predictions.logits.double()

    def loss(log_temperature: float) -> float:
        return nll(predictions, logits / torch.tensor(log_temperature, dtype=torch.float64).exp())

    low, high, ratio = -4.605, 4.605, (5**0.5 - 1) / 2
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    left, right = loss(inner), loss(outer)
    while high - low > 1e-4:
        if left <= right:
            high, outer, right = outer, inner, left
            inner = high - ratio * (high - low)
            left = loss(inner)
        else:
            low, inner, left = inner, outer, right
            outer = low + ratio * (high - low)
            right = loss(outer)
    return torch.tensor((low + high) / 2, dtype=torch.float64).exp().item()
