"""Validation metrics of the JAX backend, defined as in `vitkit.evaluation`."""

import numpy as np
import torch

from vitkit.evaluation import Predictions, average_precision, f1, regression
from vitkit.task import ProblemType, Task

# The metric that chooses the best checkpoint, and its name in a run config.
BEST: dict[ProblemType, tuple[str, str]] = {
    "single_label_classification": ("validation_top1", "top1.accuracy"),
    "multi_label_classification": ("validation_map", "average_precision.mean"),
    "regression": ("validation_r2", "regression.r2"),
}


class Scores:
    """Collects the logits and labels of validation batches, and computes the metrics of a task."""

    def __init__(self, task: Task):
        self.task = task
        self.images = 0
        self.loss = 0.0
        self.hits = 0
        self.logits: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def add(self, logits: np.ndarray, labels: np.ndarray, losses: np.ndarray) -> None:
        """Adds a batch. Labels are class indices (b,), class probabilities (b, classes), or regression targets."""
        self.images += labels.shape[0]
        self.loss += float(losses.astype(np.float64).sum())
        if self.task.problem_type == "single_label_classification":
            indices = labels if labels.ndim == 1 else labels.argmax(axis=-1)
            self.hits += int((logits.argmax(axis=-1) == indices).sum())
            return
        if labels.ndim == 1:
            labels = labels[:, None] if self.task.regression else np.eye(logits.shape[-1])[labels]
        self.logits.append(np.asarray(logits, np.float32))
        self.labels.append(np.asarray(labels, np.float32))

    def metrics(self) -> dict[str, float]:
        """Returns the metrics with the prefix `validation_`. Raises ValueError if no batch was added."""
        if not self.images:
            raise ValueError("cannot evaluate: validation returned no batches")
        found = {"loss": self.loss / self.images}
        if self.task.problem_type == "single_label_classification":
            found = {"top1": self.hits / self.images} | found
        else:
            logits, targets = (torch.from_numpy(np.concatenate(parts)) for parts in (self.logits, self.labels))
            keys = tuple(map(str, range(self.images)))
            found = _of_task(Predictions(logits=logits, targets=targets, keys=keys, task=self.task)) | found
        return {f"validation_{name}": value for name, value in found.items()}


def _of_task(predictions: Predictions) -> dict[str, float]:
    """Returns R2, MAE and RMSE for regression, or mean average precision and F1 for multi-label classification."""
    names = tuple(map(str, range(predictions.targets.shape[1])))
    if predictions.task.regression:
        results = regression.per_target(predictions, names)
        return {name: sum(getattr(each, name) for each in results) / len(results) for name in ("r2", "mae", "rmse")}
    truth = predictions.targets > 0
    present = truth.any(dim=0)
    if not present.any():
        raise ValueError("none of the validation images has a label")
    precision = average_precision.average_precision(predictions.logits[:, present], truth[:, present])
    return {"map": precision.mean().item(), "f1": f1.metrics(predictions, names)["micro"]}
