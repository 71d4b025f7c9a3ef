"""How well the classes are told apart by planes: multinomial logistic regression on frozen representations.

Representations are standardised by those of training. The whole training set is one batch of L-BFGS, in float64; the
strength of the l2 penalty is the one that does best on a fifth of the training pictures, held out by a seed, and the
probe is then fitted to all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vitkit.evaluate import Subject, right

READS = "representations"
STRENGTHS = tuple(10.0**power for power in range(1, -7, -1))
HELD_OUT = 0.2
SEED = 0
MOST_STEPS = 1000


@dataclass(frozen=True)
class Probe:
    """A linear classifier in float64; `gradient` is the largest entry of its loss's gradient, 0 at the optimum."""

    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    gradient: float

    def __call__(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Logits."""
        return F.linear(vectors.to(self.weight), self.weight, self.bias)


def evaluate(subject: Subject) -> dict[str, float]:
    """`accuracy`, `top5` where there are more than five classes, the chosen `l2`, the accuracy `held_out` that chose
    it, and the `gradient` left at the end.
    """
    training, judged = subject.training_representations, subject.representations
    mean, deviation = training.vectors.double().mean(dim=0), training.vectors.double().std(dim=0, correction=0)
    # A feature that never changes tells nothing; it becomes 0 rather than infinite.
    scale = torch.where(deviation > 0, deviation, torch.inf)
    x, z = ((each.vectors.double() - mean) / scale for each in (training, judged))
    labels, num_classes = training.labels, training.targets.shape[1]
    kept, held = split(labels)
    scores = [
        right(probe(x[held]).argmax(1), training.targets[held]) for probe in path(x[kept], labels[kept], num_classes)
    ]
    best = max(range(len(STRENGTHS)), key=lambda index: scores[index])  # of equals, the strongest
    probe = path(x, labels, num_classes, STRENGTHS[: best + 1])[-1]
    logits = probe(z)
    numbers = {"accuracy": right(logits.argmax(dim=1), judged.targets)}
    if num_classes > 5:
        hits = judged.targets.gather(1, logits.topk(5, dim=1).indices) > 0
        numbers["top5"] = hits.any(dim=1).double().mean().item()
    return numbers | {"l2": STRENGTHS[best], "held_out": scores[best], "gradient": probe.gradient}


def split(labels: Int[Tensor, " n"]) -> tuple[Int[Tensor, " kept"], Int[Tensor, " held"]]:
    """Which training pictures choose the penalty (a fifth of each class) and which are fitted.

    A class of a single picture is fitted. Raises ValueError where no class has two.
    """
    random = np.random.default_rng(SEED)
    held = np.zeros(labels.shape[0], dtype=bool)
    for label in np.unique(labels.numpy()):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        if members.shape[0] > 1:
            held[members[: max(1, round(HELD_OUT * members.shape[0]))]] = True
    if not held.any():
        raise ValueError("the probe holds out training pictures, and no class has two of them")
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def path(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, strengths: Sequence[float] = STRENGTHS
) -> list[Probe]:
    """The probe of each penalty, strongest first; each starts where the one before ended."""
    probes: list[Probe] = []
    for l2 in strengths:
        probes.append(fit(x, labels, num_classes, l2, start=probes[-1] if probes else None))
    return probes


def fit(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, l2: float, start: Probe | None = None
) -> Probe:
    """The minimum of mean cross-entropy + l2 / 2 * |weight|^2 over weight and bias (scikit-learn's with C = 1/(l2 n)).

    The loss is convex, so where it starts changes only how long it takes.
    """
    weight = torch.zeros(num_classes, x.shape[1], dtype=x.dtype) if start is None else start.weight.clone()
    bias = torch.zeros(num_classes, dtype=x.dtype) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MOST_STEPS,
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
