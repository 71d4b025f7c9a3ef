"""Whether scores mean what they say: of the pictures given 80 %, are 80 % right? (Guo et al. 2017)"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluate import Predictions, Subject

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The pictures whose highest score falls in one of the equal ranges of 0..1; means are 0 where there are none."""

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


def evaluate(subject: Subject) -> dict[str, float]:
    """`ece` and `mce` (expected and largest calibration error over 15 bins), `brier` and `nll`, and `temperature`.

    The last is the number that dividing the logits by makes the likelihood of these pictures largest.
    """
    predictions = labelled(subject.predictions)
    filled = [each for each in bins(predictions) if each.pictures]
    gaps = torch.tensor([abs(each.confidence - each.accuracy) for each in filled], dtype=torch.float64)
    shares = torch.tensor([each.pictures for each in filled], dtype=torch.float64) / predictions.targets.shape[0]
    truth = share_of_truth(predictions)
    log_scores = predictions.logits.double().log_softmax(dim=1)
    return {
        "ece": (gaps * shares).sum().item(),
        "mce": gaps.max().item(),
        "brier": (log_scores.exp() - truth).square().sum(dim=1).mean().item(),
        "nll": -(truth * log_scores).sum(dim=1).mean().item(),
        "temperature": temperature(predictions),
    }


def labelled(predictions: Predictions) -> Predictions:
    """The predictions for pictures that have a true class; ValueError where none has."""
    keep = predictions.targets.sum(dim=1) > 0
    if not keep.any():
        raise ValueError("none of the pictures has a label")
    keys = tuple(key for key, kept in zip(predictions.keys, keep.tolist(), strict=True) if kept)
    return Predictions(logits=predictions.logits[keep], targets=predictions.targets[keep], keys=keys)


def bins(predictions: Predictions, num: int = BINS) -> list[Bin]:
    """The reliability diagram: `num` equal ranges (low, high] of the highest score, with what was promised and kept."""
    confidence, guess = predictions.scores.double().max(dim=1)
    right = predictions.targets.gather(1, guess[:, None])[:, 0] > 0
    # A score of exactly 0 cannot be the highest, so every picture is in one of the half-open ranges.
    place = (confidence * num).ceil().long().clamp(1, num) - 1
    result = []
    for index in range(num):
        here = place == index
        pictures = int(here.sum())
        result.append(
            Bin(
                low=index / num,
                high=(index + 1) / num,
                pictures=pictures,
                confidence=confidence[here].mean().item() if pictures else 0.0,
                accuracy=right[here].double().mean().item() if pictures else 0.0,
            )
        )
    return result


def share_of_truth(predictions: Predictions) -> Float[Tensor, "n classes"]:
    """Targets as a distribution: several true classes share evenly."""
    targets = predictions.targets.double()
    return targets / targets.sum(dim=1, keepdim=True)


def temperature(predictions: Predictions) -> float:
    """The temperature of least negative log-likelihood, between 0.01 and 100, by golden-section search on its
    logarithm.

    The likelihood is unimodal in the temperature, so bracketing finds the one minimum.
    """
    truth, logits = share_of_truth(predictions), predictions.logits.double()

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
