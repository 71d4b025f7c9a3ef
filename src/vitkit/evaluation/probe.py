"""Linear probe: multinomial logistic regression on frozen representations.

Representations are standardized by the training images. The full training set is one batch of L-BFGS, in float64. The
l2 penalty is the one with the best accuracy on a held-out fifth of the training images; the probe is then fitted to all
training images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vitkit.evaluation import ModelOutputs, accuracy
from vitkit.evaluation.requirements import EvaluationData, top5

READS = "representations"
STRENGTHS = tuple(10.0**power for power in range(1, -7, -1))
HELD_OUT = 0.2
SEED = 0
MAX_STEPS = 1000


@dataclass(frozen=True)
class Probe:
    """A linear classifier in float64. `gradient` is the largest absolute gradient of the loss after the fit."""

    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    gradient: float

    def __call__(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Returns the logits."""
        return F.linear(vectors.to(self.weight), self.weight, self.bias)


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if no class has two training images."""
    data.check_split()
    return ("accuracy", *top5(data), "l2", "held_out", "gradient")


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns `accuracy`, `top5` (for more than five classes), and details of the fit.

    `l2` is the chosen L2 penalty, and `held_out` the accuracy on the held-out training images with this penalty.
    `gradient` is the largest absolute gradient of the loss after the final fit.
    """
    training, test = subject.training_representations, subject.representations
    mean, deviation = training.vectors.double().mean(dim=0), training.vectors.double().std(dim=0, correction=0)
    # A constant feature becomes 0 instead of infinite.
    scale = torch.where(deviation > 0, deviation, torch.inf)
    x, z = ((each.vectors.double() - mean) / scale for each in (training, test))
    labels, num_classes = training.labels, training.targets.shape[1]
    train_rows, held_out_rows = split(labels)
    probes = fit_path(x[train_rows], labels[train_rows], num_classes)
    scores = [accuracy(probe(x[held_out_rows]).argmax(1), training.targets[held_out_rows]) for probe in probes]
    best = max(range(len(STRENGTHS)), key=lambda index: scores[index])  # if scores are equal, the strongest penalty
    probe = fit_path(x, labels, num_classes, STRENGTHS[: best + 1])[-1]
    logits = probe(z)
    numbers = {"accuracy": accuracy(logits.argmax(dim=1), test.targets)}
    if num_classes > 5:
        hits = test.targets.gather(1, logits.topk(5, dim=1).indices) > 0
        numbers["top5"] = hits.any(dim=1).double().mean().item()
    return numbers | {"l2": STRENGTHS[best], "held_out": scores[best], "gradient": probe.gradient}


def split(labels: Int[Tensor, " n"]) -> tuple[Int[Tensor, " train"], Int[Tensor, " held_out"]]:
    """Splits images into training images and held-out images (a fifth of each class), as row indices.

    If a class has a single image, it is a training image. Raises ValueError if no class has two images.
    """
    random = np.random.default_rng(SEED)
    held_out = np.zeros(labels.shape[0], dtype=bool)
    for label in np.unique(labels.numpy()):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        if members.shape[0] > 1:
            held_out[members[: max(1, round(HELD_OUT * members.shape[0]))]] = True
    if not held_out.any():
        raise ValueError("a held-out set needs a class with at least two training images, but every class has fewer")
    return torch.from_numpy(np.flatnonzero(~held_out)), torch.from_numpy(np.flatnonzero(held_out))


def fit_path(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, strengths: Sequence[float] = STRENGTHS
) -> list[Probe]:
    """Fits a probe for each L2 penalty, in order. Each fit starts from the previous solution."""
    probes: list[Probe] = []
    for l2 in strengths:
        probes.append(fit(x, labels, num_classes, l2, start=probes[-1] if probes else None))
    return probes


def fit(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, l2: float, start: Probe | None = None
) -> Probe:
    """Fits a linear classifier by minimizing the mean cross-entropy plus l2 / 2 * |weight|^2.

    This is scikit-learn's logistic regression with C = 1 / (l2 n). The loss is convex, so `start` changes only the
    number of steps.
    """
    weight = torch.zeros(num_classes, x.shape[1], dtype=x.dtype) if start is None else start.weight.clone()
    bias = torch.zeros(num_classes, dtype=x.dtype) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_STEPS,
        tolerance_grad=1e-7,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    loss()
    gradient = max(float(each.grad.abs().max()) for each in parameters if each.grad is not None)
    return Probe(weight.detach(), bias.detach(), gradient)
