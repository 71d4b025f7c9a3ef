"""Mean average precision: how well each class ranks the pictures, the number for pictures with several labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluate import Subject


def evaluate(subject: Subject) -> dict[str, float]:
    """`mean` over the classes that have pictures (mAP), `weighted` by how many they have, and the `worst` of them.

    Pictures without any label count: whatever is said of them is wrong. ValueError where no picture has a label.
    """
    predictions = subject.predictions
    truth = predictions.targets > 0
    found = truth.any(dim=0)
    if not found.any():
        raise ValueError("none of the pictures has a label")
    each = average_precision(predictions.logits[:, found], truth[:, found])
    shares = truth[:, found].sum(dim=0) / truth.sum()
    return {"mean": each.mean().item(), "weighted": (each * shares).sum().item(), "worst": each.min().item()}


def average_precision(scores: Float[Tensor, "n classes"], truth: Tensor) -> Float[Tensor, " classes"]:
    """For each class sum_i (r_i - r_(i-1)) p_i over its scores in falling order, with recall r and precision p there.

    Pictures of one score are taken together, as scikit-learn does. Each class needs a picture that has it.
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
