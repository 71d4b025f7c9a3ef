"""Mean average precision (mAP) for images with several labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluation import ModelOutputs
from vitkit.evaluation.requirements import EvaluationData


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if no image has a label."""
    _ = data.counts
    return ("mean", "weighted", "worst")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the `mean` (mAP), `weighted` and `worst` average precision of all classes.

    `weighted` is the mean weighted by class size. Images without a label count as negatives of every class. Raises
    ValueError if no image has a label.
    """
    predictions = subject.predictions
    truth = predictions.targets > 0
    present = truth.any(dim=0)
    if not present.any():
        raise ValueError("none of the images has a label; evaluation needs labeled images")
    # Logits rank images as sigmoid scores do, without ties from rounding.
    each = average_precision(predictions.logits[:, present], truth[:, present])
    weights = truth[:, present].sum(dim=0) / truth.sum()
    return {"mean": each.mean().item(), "weighted": (each * weights).sum().item(), "worst": each.min().item()}


def average_precision(scores: Float[Tensor, "n classes"], truth: Tensor) -> Float[Tensor, " classes"]:
    """Returns the average precision of each class: sum_i (r_i - r_(i-1)) p_i.

    r_i and p_i are recall and precision at score i. Images with equal scores count as one threshold, as in
    scikit-learn. Each class needs at least one positive image.
    """
    columns = [_of_class(column, true) for column, true in zip(scores.T, truth.T, strict=True)]
    return torch.stack(columns)


def _of_class(scores: Float[Tensor, " n"], true: Tensor) -> Float[Tensor, ""]:
    scores, order = scores.sort(descending=True, stable=True)
    hits = true[order].double().cumsum(dim=0)
    precision = hits / torch.arange(1, hits.shape[0] + 1)
    last = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])
    recall = hits[last] / hits[-1]
    return (torch.diff(recall, prepend=recall.new_zeros(1)) * precision[last]).sum()
