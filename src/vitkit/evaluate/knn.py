"""Whether like pictures lie together: each is classified by a vote of its nearest training pictures.

DINO's protocol (Caron et al. 2021, appendix A; its `eval_knn`): cosine similarity, a neighbour's vote weighs
exp(similarity / 0.07), and 10, 20, 100 and 200 neighbours; 20 is the number usually quoted.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vitkit.evaluate import Subject, right

READS = "representations"
NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
MOST_SIMILARITIES = 2**25  # held at a time: 128 MiB


def evaluate(subject: Subject) -> dict[str, float]:
    """The accuracy `k20` of each number of neighbours, and `k20_top5` where there are more than five classes.

    A number of neighbours beyond that of the training pictures is left out; ValueError where that leaves none.
    """
    training, judged = subject.training_representations, subject.representations
    total, num_classes = training.vectors.shape[0], training.targets.shape[1]
    numbers = [k for k in NEIGHBOURS if k <= total]
    if not numbers:
        raise ValueError(f"knn asks {NEIGHBOURS[0]} neighbours, and there are {total} training pictures")
    similar, classes = neighbours(
        judged.vectors.to(subject.device), training.vectors.to(subject.device), training.labels, max(numbers)
    )
    found: dict[str, float] = {}
    for k in numbers:
        votes = vote(similar[:, :k], classes[:, :k], num_classes)
        found[f"k{k}"] = right(votes.argmax(dim=1), judged.targets)
        if num_classes > 5:
            best = votes.topk(5, dim=1)
            # Where neighbours are of fewer than five classes, one without a vote is no answer.
            hits = (judged.targets.gather(1, best.indices) > 0) & (best.values > 0)
            found[f"k{k}_top5"] = hits.any(dim=1).double().mean().item()
    return found


def neighbours(
    queries: Float[Tensor, "n d"], keys: Float[Tensor, "m d"], labels: Int[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The cosine similarity of the `k` nearest keys of each query, nearest first, and their labels; on the CPU."""
    keys = F.normalize(keys, dim=1).T
    similar, places = [], []
    for chunk in F.normalize(queries, dim=1).split(max(1, MOST_SIMILARITIES // keys.shape[1])):
        nearest = (chunk @ keys).topk(k, dim=1)
        similar.append(nearest.values.cpu())
        places.append(nearest.indices.cpu())
    return torch.cat(similar), labels[torch.cat(places)]


def vote(
    similar: Float[Tensor, "n k"], classes: Int[Tensor, "n k"], num_classes: int
) -> Float[Tensor, "n num_classes"]:
    """The sum of exp(similarity / temperature) over the neighbours of each class."""
    weights = (similar.double() / TEMPERATURE).exp()
    return torch.zeros(similar.shape[0], num_classes, dtype=torch.float64).scatter_add_(1, classes, weights)
