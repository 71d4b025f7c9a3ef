"""Effective rank of the representations, which needs no labels (RankMe, Garrido et al. 2023).

It is exp(H(p)), where p are the singular values of the matrix of representations, divided by their sum, and H is the
entropy. A low rank means collapsed representations. Models of one architecture and training method with a higher rank
are usually better in downstream tasks; ranks of different methods or widths are not comparable.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluation import ModelOutputs
from vitkit.evaluation.requirements import EvaluationData

READS = "images"
FRACTIONS = False
EPSILON = 1e-7


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics, without any checks."""
    return ("effective", "images")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns `effective`, the effective rank of the representations of all images, and the number of `images`."""
    return {"effective": effective_rank(subject.vectors), "images": float(subject.vectors.shape[0])}


def effective_rank(vectors: Float[Tensor, "n d"]) -> float:
    """Returns the effective rank of vectors: the exponential of the entropy of the normalized singular values."""
    matrix = vectors.double()
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    fractions = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny) + EPSILON
    return float((-(fractions * fractions.log()).sum()).exp())
