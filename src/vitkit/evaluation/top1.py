"""Top-1 and top-5 accuracy. With multi-hot targets, top-1 accuracy is ReaL accuracy (Beyer et al. 2020).

A prediction is correct if it is one of the true classes. Images without a label are excluded, as in big_vision.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitkit.evaluation import ModelOutputs, Predictions
from vitkit.evaluation.requirements import EvaluationData, top5


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if no image has a label."""
    _ = data.counts
    return ("accuracy", "loss", "images", *top5(data))


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns `accuracy`, `top5` (for more than five classes), `loss`, and the number of `images`."""
    return metrics(subject.predictions)


def metrics(predictions: Predictions) -> dict[str, float]:
    """Computes accuracy and loss of predictions. Raises ValueError if no image has a label."""
    labelled = predictions.targets.sum(dim=1) > 0
    if not labelled.any():
        raise ValueError("none of the images has a label; evaluation needs labeled images")
    loss = losses(predictions)
    result = {
        "accuracy": hits(predictions, 1)[labelled].double().mean().item(),
        "loss": loss[labelled].double().mean().item(),
        "images": float(labelled.sum()),
    }
    if predictions.targets.shape[1] > 5:
        result["top5"] = hits(predictions, 5)[labelled].double().mean().item()
    return result


def losses(predictions: Predictions) -> Float[Tensor, " n"]:
    """Returns the cross-entropy of each image.

    With a sigmoid, it is the sum over all classes. With a softmax, it is 0 for an image without a label.
    """
    if predictions.task.function(predictions.targets.shape[1]) == "sigmoid":
        truth = (predictions.targets > 0).float()
        return F.binary_cross_entropy_with_logits(predictions.logits, truth, reduction="none").sum(dim=1)
    truth = predictions.targets / predictions.targets.sum(dim=1, keepdim=True).clamp(min=1.0)
    return F.cross_entropy(predictions.logits, truth, reduction="none")


def hits(predictions: Predictions, k: int) -> Bool[Tensor, " n"]:
    """Returns, for each image, whether one of the `k` classes with the highest logits is correct."""
    best = predictions.logits.topk(k, dim=1).indices
    return (predictions.targets.gather(1, best) > 0).any(dim=1)


def predicted(predictions: Predictions) -> Tensor:
    """Returns the index of the predicted class of each image."""
    return torch.argmax(predictions.logits, dim=1)
