"""Weighted k-nearest-neighbor classification of representations.

DINO's protocol (Caron et al. 2021, appendix A; its `eval_knn`): cosine similarity, neighbors weighted by
exp(similarity / 0.07), and 10, 20, 100 and 200 neighbors; the usually reported number is k = 20.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vitkit.evaluation import ModelOutputs, accuracy
from vitkit.evaluation.requirements import EvaluationData, top5

READS = "representations"
NEIGHBORS = (10, 20, 100, 200)
TEMPERATURE = 0.07
MAX_SIMILARITIES = 2**25  # similarities in memory at a time (128 MiB)


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if there are too few training images."""
    numbers = numbers_of_neighbors(int(data.training_counts.sum()))
    return tuple(f"k{k}{suffix}" for k in numbers for suffix in ("", *(f"_{name}" for name in top5(data))))


def numbers_of_neighbors(total: int) -> list[int]:
    """Returns the values of k for `total` training images. Raises ValueError if there are too few images."""
    numbers = [k for k in NEIGHBORS if k <= total]
    if not numbers:
        raise ValueError(
            f"knn needs at least {NEIGHBORS[0]} labeled training images, but there are {total}; add images, or use "
            "another evaluator"
        )
    return numbers


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the accuracy for each k (such as `k20`) and, with more than five classes, also `k20_top5`.

    Values of k above the number of training images are omitted. Raises ValueError if no value remains.
    """
    training, test = subject.training_representations, subject.representations
    total, num_classes = training.vectors.shape[0], training.targets.shape[1]
    numbers = numbers_of_neighbors(total)
    similarities, classes = neighbors(
        test.vectors.to(subject.device), training.vectors.to(subject.device), training.labels, max(numbers)
    )
    metrics: dict[str, float] = {}
    for k in numbers:
        votes = vote(similarities[:, :k], classes[:, :k], num_classes)
        metrics[f"k{k}"] = accuracy(votes.argmax(dim=1), test.targets)
        if num_classes > 5:
            best = votes.topk(5, dim=1)
            # If the neighbors have fewer than five classes, classes without votes do not count as predictions.
            hits = (test.targets.gather(1, best.indices) > 0) & (best.values > 0)
            metrics[f"k{k}_top5"] = hits.any(dim=1).double().mean().item()
    return metrics


def neighbors(
    queries: Float[Tensor, "n d"], keys: Float[Tensor, "m d"], labels: Int[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Returns, for each query vector, the `k` largest cosine similarities to `keys`, and the labels of these keys."""
    keys = F.normalize(keys, dim=1).T
    similarities, indices = [], []
    for chunk in F.normalize(queries, dim=1).split(max(1, MAX_SIMILARITIES // keys.shape[1])):
        nearest = (chunk @ keys).topk(k, dim=1)
        similarities.append(nearest.values.cpu())
        indices.append(nearest.indices.cpu())
    return torch.cat(similarities), labels[torch.cat(indices)]


def vote(
    similarities: Float[Tensor, "n k"], classes: Int[Tensor, "n k"], num_classes: int
) -> Float[Tensor, "n num_classes"]:
    """Returns the score of each class: the sum of exp(similarity / temperature) over the neighbors of the class."""
    weights = (similarities.double() / TEMPERATURE).exp()
    return torch.zeros(similarities.shape[0], num_classes, dtype=torch.float64).scatter_add_(1, classes, weights)
