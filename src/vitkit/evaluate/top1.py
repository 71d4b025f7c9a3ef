"""How often the likeliest class, or one of the five likeliest, is right; with multi-hot targets this is ReaL accuracy.

A picture without any true class is left out (big_vision's classification evaluator; Beyer et al. 2020 for ReaL).
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from vitkit.evaluate import Predictions, Subject


def evaluate(subject: Subject) -> dict[str, float]:
    """`accuracy`, `top5` where there are more than five classes, `loss` (softmax cross-entropy) and how many
    `pictures`.
    """
    return numbers(subject.predictions)


def numbers(predictions: Predictions) -> dict[str, float]:
    """The same of predictions at hand; ValueError where none of the pictures has a label."""
    labelled = predictions.targets.sum(dim=1) > 0
    if not labelled.any():
        raise ValueError("none of the pictures has a label")
    truth = predictions.targets / predictions.targets.sum(dim=1, keepdim=True).clamp(min=1.0)
    loss = -(truth * predictions.logits.log_softmax(dim=1)).sum(dim=1)
    found = {
        "accuracy": hits(predictions, 1)[labelled].double().mean().item(),
        "loss": loss[labelled].double().mean().item(),
        "pictures": float(labelled.sum()),
    }
    if predictions.targets.shape[1] > 5:
        found["top5"] = hits(predictions, 5)[labelled].double().mean().item()
    return found


def hits(predictions: Predictions, k: int) -> Bool[Tensor, " n"]:
    """Whether one of the `k` likeliest classes of each picture is among its true ones."""
    best = predictions.logits.topk(k, dim=1).indices
    return (predictions.targets.gather(1, best) > 0).any(dim=1)


def predicted(predictions: Predictions) -> Tensor:
    """The likeliest class of each picture, (n,)."""
    return torch.argmax(predictions.logits, dim=1)
