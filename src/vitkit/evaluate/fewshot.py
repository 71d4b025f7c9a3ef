"""How much of new classes a model sees in a handful of pictures: least squares on its representations, in closed form.

As big_vision's `fewshot_lsr`, by which the ViT paper's few-shot accuracies are measured (section 4.1), in float64: each
class's pictures in the order that `numpy.random.default_rng(seed)` gives, whitened by what was drawn, with a constant
feature of 100 for an almost free bias, onto targets of -1 and 1, with an l2 of 1024.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from vitkit.evaluate import Subject, right

READS = "representations"
SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10
CONSTANT = 100.0


def evaluate(subject: Subject) -> dict[str, float]:
    """The accuracy `5shot_seed0` of each number of pictures a class and each draw, and `5shot`, the mean over draws.

    A class with fewer training pictures gives all that it has.
    """
    training, judged = subject.training_representations, subject.representations
    vectors, labels = training.vectors.double().numpy(), training.labels.numpy()
    tested, num_classes = judged.vectors.double().numpy(), training.targets.shape[1]
    numbers: dict[str, float] = {}
    for shots in SHOTS:
        found = {}
        for seed in SEEDS:
            chosen = draw(labels, num_classes, shots, seed)
            guess = predict(vectors[chosen], labels[chosen], tested, num_classes)
            found[f"{shots}shot_seed{seed}"] = right(torch.from_numpy(guess), judged.targets)
        numbers |= {f"{shots}shot": sum(found.values()) / len(found), **found}
    return numbers


def draw(labels: Int[np.ndarray, " n"], num_classes: int, shots: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """The pictures to learn from: the first `shots` of a permutation of each class's, the classes in order."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == each))[:shots] for each in range(num_classes)])


def predict(
    vectors: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    tested: Float[np.ndarray, "m d"],
    num_classes: int,
) -> Int[np.ndarray, " m"]:
    """The classes of the tested vectors by regularised least squares on the others."""
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-5
    x, z = (_with_constant((each - mean) / deviation) for each in (vectors, tested))
    weights = least_squares(x, 2.0 * np.eye(num_classes)[labels] - 1.0, L2)
    return (z @ weights).argmax(axis=1)


def least_squares(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n classes"], l2: float
) -> Float[np.ndarray, "d classes"]:
    """`(x'x + l2)^-1 x'y`, which is `x'(xx' + l2)^-1 y`: the smaller of the two, by its eigenvectors."""
    if x.shape[0] >= x.shape[1]:
        values, axes = np.linalg.eigh(x.T @ x)
        return axes @ ((axes.T @ (x.T @ y)) / (values + l2)[:, None])
    values, axes = np.linalg.eigh(x @ x.T)
    return x.T @ (axes @ ((axes.T @ y) / (values + l2)[:, None]))


def _with_constant(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
    return np.pad(x, ((0, 0), (0, 1)), constant_values=CONSTANT)
