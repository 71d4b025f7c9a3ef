"""Few-shot linear classification of representations with regularized least squares in closed form.

This is big_vision's `fewshot_lsr`, the few-shot evaluation of the ViT paper (section 4.1), in float64. The training
images of each class are sampled with `numpy.random.default_rng(seed)`. Features are standardized by the sampled images
and extended by a constant feature of 100, an almost unregularized bias. The targets are -1 and 1, the l2 penalty 1024.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from vitkit.evaluation import ModelOutputs, accuracy
from vitkit.evaluation.requirements import EvaluationData

READS = "representations"
SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10
CONSTANT = 100.0


def check(data: EvaluationData) -> tuple[str, ...]:
    """Returns the names of the metrics, without any checks."""
    return tuple(f"{shots}shot{suffix}" for shots in SHOTS for suffix in ("", *(f"_seed{seed}" for seed in SEEDS)))


def evaluate(subject: ModelOutputs) -> dict[str, float]:
    """Returns the accuracy for each number of shots and seed (`5shot_seed0`), and the mean over seeds (`5shot`).

    A class with fewer training images than shots contributes all of them.
    """
    training, test = subject.training_representations, subject.representations
    vectors, labels = training.vectors.double().numpy(), training.labels.numpy()
    test_vectors, num_classes = test.vectors.double().numpy(), training.targets.shape[1]
    numbers: dict[str, float] = {}
    for shots in SHOTS:
        scores = {}
        for seed in SEEDS:
            chosen = sample_shots(labels, num_classes, shots, seed)
            predicted = predict(vectors[chosen], labels[chosen], test_vectors, num_classes)
            scores[f"{shots}shot_seed{seed}"] = accuracy(torch.from_numpy(predicted), test.targets)
        numbers |= {f"{shots}shot": sum(scores.values()) / len(scores), **scores}
    return numbers


def sample_shots(labels: Int[np.ndarray, " n"], num_classes: int, shots: int, seed: int) -> Int[np.ndarray, " chosen"]:
    """Returns the indices of `shots` randomly chosen training images per class."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == each))[:shots] for each in range(num_classes)])


def predict(
    vectors: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test_vectors: Float[np.ndarray, "m d"],
    num_classes: int,
) -> Int[np.ndarray, " m"]:
    """Fits a linear classifier to vectors by regularized least squares. Returns the predicted test classes."""
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-5
    x, z = (_with_constant((each - mean) / deviation) for each in (vectors, test_vectors))
    weights = least_squares(x, 2.0 * np.eye(num_classes)[labels] - 1.0, L2)
    return (z @ weights).argmax(axis=1)


def least_squares(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n classes"], l2: float
) -> Float[np.ndarray, "d classes"]:
    """Solves regularized least squares, in the primal or the dual form, depending on which matrix is smaller."""
    if x.shape[0] >= x.shape[1]:
        values, axes = np.linalg.eigh(x.T @ x)
        return axes @ ((axes.T @ (x.T @ y)) / (values + l2)[:, None])
    values, axes = np.linalg.eigh(x @ x.T)
    return x.T @ (axes @ ((axes.T @ y) / (values + l2)[:, None]))


def _with_constant(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n e"]:
    return np.pad(x, ((0, 0), (0, 1)), constant_values=CONSTANT)
