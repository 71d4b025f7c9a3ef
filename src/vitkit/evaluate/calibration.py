"""Calibration of the predicted probabilities (Guo et al. 2017)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluate import ModelOutputs, Predictions

BINS = 15


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram. The means of an empty bin are 0."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the calibration metrics `ece`, `mce`, `brier`, `nll` and `temperature`.

    `ece` and `mce` are the expected and maximum calibration errors over 15 bins. Dividing the logits by the temperature
    maximizes the likelihood of these images.
    """
    predictions = labelled(subject.predictions)
    filled = [each for each in bins(predictions) if each.images]
    gaps = torch.tensor([abs(each.confidence - each.accuracy) for each in filled], dtype=torch.float64)
    fractions = torch.tensor([each.images for each in filled], dtype=torch.float64) / predictions.targets.shape[0]
    truth = target_distribution(predictions)
    log_scores = predictions.logits.double().log_softmax(dim=1)
    return {
        "ece": (gaps * fractions).sum().item(),
        "mce": gaps.max().item(),
        "brier": (log_scores.exp() - truth).square().sum(dim=1).mean().item(),
        "nll": -(truth * log_scores).sum(dim=1).mean().item(),
        "temperature": temperature(predictions),
    }


def labelled(predictions: Predictions) -> Predictions:
    """Returns the predictions of the labeled images. Raises ValueError if there are none."""
    keep = predictions.targets.sum(dim=1) > 0
    if not keep.any():
        raise ValueError("none of the images has a label")
    keys = tuple(key for key, selected in zip(predictions.keys, keep.tolist(), strict=True) if selected)
    return Predictions(logits=predictions.logits[keep], targets=predictions.targets[keep], keys=keys)


def bins(predictions: Predictions, num: int = BINS) -> list[Bin]:
    """Returns the reliability diagram for `num` confidence intervals (low, high] of equal width."""
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
    """Returns the targets normalized to sum to one per image."""
    targets = predictions.targets.double()
    return targets / targets.sum(dim=1, keepdim=True)


def temperature(predictions: Predictions) -> float:
    """Returns the temperature between 0.01 and 100 that minimizes the negative log-likelihood.

    Golden-section search on the logarithm of the temperature finds the minimum, because the likelihood is unimodal.
    """
    truth, logits = target_distribution(predictions), predictions.logits.double()

    def loss(log_temperature: float) -> float:
        scaled = logits / torch.tensor(log_temperature, dtype=torch.float64).exp()
        return -(truth * scaled.log_softmax(dim=1)).sum(dim=1).mean().item()

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
