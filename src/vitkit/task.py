"""`Task`: the meaning of a model's outputs, and how logits are converted to scores and predictions.

Level 0. A task is part of the config of every model, so it is saved, loaded, converted and exported with the weights.
All code that reads the outputs of a model decodes them with its task; no other code applies a softmax or a sigmoid to
logits to make a prediction.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# The names of transformers' `config.problem_type`.
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)
# The names of transformers' `function_to_apply`.
Function = Literal["softmax", "sigmoid", "none"]
# Logits with any leading axes, whose last axis are the outputs.
Array = TypeVar("Array", np.ndarray, "Tensor")


@dataclass(frozen=True, kw_only=True)
class Task:
    """The meaning of the outputs of a model. The last axis of the logits has one element per output.

    `problem_type` is `single_label_classification` (classes that exclude each other: a softmax over the outputs),
    `multi_label_classification` (independent labels: a sigmoid of each output) or `regression` (numbers). A
    single-label model with only one output is a yes-or-no classifier with a sigmoid, as in transformers' pipelines.

    `threshold` is the lowest score of a predicted label if labels are independent: one number, or one per label.
    `target_mean` and `target_std` are the statistics by which the targets of a regression were standardized, one number
    per output; predicted values are logits * std + mean. Empty tuples mean that the logits are the values.
    """

    problem_type: ProblemType = "single_label_classification"
    threshold: float | tuple[float, ...] = 0.5
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if a field is out of range or contradicts another field."""
        if self.problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type is {self.problem_type!r}; expected one of {', '.join(PROBLEM_TYPES)}")
        thresholds = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        if not thresholds or not all(0.0 <= each <= 1.0 for each in thresholds):
            raise ValueError(f"threshold is {self.threshold}; each threshold must be between 0 and 1")
        if len(self.target_mean) != len(self.target_std):
            raise ValueError(
                f"target_mean has {len(self.target_mean)} numbers and target_std has {len(self.target_std)}; "
                "set both, one number per output"
            )
        if self.target_std and not self.regression:
            raise ValueError(f"target_mean and target_std need problem_type='regression', not '{self.problem_type}'")
        if not all(math.isfinite(each) for each in self.target_mean):
            raise ValueError(f"target_mean is {self.target_mean}; it must be finite")
        if not all(math.isfinite(each) and each > 0.0 for each in self.target_std):
            raise ValueError(f"target_std is {self.target_std}; it must be finite and above 0")

    @property
    def regression(self) -> bool:
        """Whether the model is a regression model, whose outputs are numbers instead of scores of classes or labels."""
        return self.problem_type == "regression"

    def function(self, outputs: int) -> Function:
        """Returns the function that converts the logits to scores: "none", "sigmoid" or "softmax"."""
        if self.regression:
            return "none"
        return "sigmoid" if self.problem_type == "multi_label_classification" or outputs == 1 else "softmax"

    def check(self, outputs: int) -> None:
        """Raises ValueError if a field has one number per output, but the model has another number of outputs."""
        for name, values in (("threshold", self.threshold), ("target_mean", self.target_mean)):
            if isinstance(values, tuple) and len(values) not in (0, outputs):
                raise ValueError(f"task.{name} has {len(values)} numbers, but the model has {outputs} outputs")

    def for_new_head(self) -> "Task":
        """Returns a task with the same problem type for a new head, without thresholds and target statistics."""
        return Task(problem_type=self.problem_type)

    def scores(self, logits: Array) -> Array:
        """Returns probabilities or, for regression, the predicted values in the units of the targets.

        NumPy logits are computed in float64, torch logits in float32 unless they are in float64.
        """
        scores = apply(self.function(logits.shape[-1]), logits)
        if not self.target_std:
            return scores
        if isinstance(scores, np.ndarray):
            return scores * np.asarray(self.target_std) + np.asarray(self.target_mean)
        return scores * scores.new_tensor(self.target_std) + scores.new_tensor(self.target_mean)

    def decisions(self, logits: Array) -> Array:
        """Returns which outputs are predicted: the labels whose score reaches the threshold, or the most likely class.

        Raises ValueError for a regression, which decides nothing.
        """
        function = self.function(logits.shape[-1])
        if function == "none":
            raise ValueError(
                "a regression model predicts numbers; decisions need a single-label or multi-label classifier"
            )
        if isinstance(logits, np.ndarray):
            if function == "sigmoid":
                return self.scores(logits) >= np.asarray(self.threshold)
            return np.arange(logits.shape[-1]) == logits.argmax(axis=-1)[..., None]
        if function == "sigmoid":
            scores = self.scores(logits)
            return scores >= scores.new_tensor(self.threshold)
        best = logits.argmax(dim=-1, keepdim=True)
        return logits.new_zeros(logits.shape).scatter(-1, best, 1.0) > 0

    def standardized(self, targets: "Tensor") -> "Tensor":
        """Returns (targets - mean) / std. The logits of a regression model predict these values."""
        if not self.target_std:
            return targets
        return (targets - targets.new_tensor(self.target_mean)) / targets.new_tensor(self.target_std)

    def with_threshold(self, threshold: float | tuple[float, ...] | None) -> "Task":
        """Returns the task with another threshold, or the task itself if `threshold` is None."""
        return self if threshold is None else replace(self, threshold=threshold)


# The default: one class per image.
SINGLE_LABEL = Task()


def apply(function: Function, logits: Array) -> Array:
    """Applies softmax, sigmoid or no function to the last axis of logits. Computes in float32 or a wider dtype."""
    if not isinstance(logits, np.ndarray):
        logits = logits.float() if logits.itemsize < 4 else logits
        return (
            logits.softmax(dim=-1) if function == "softmax" else logits.sigmoid() if function == "sigmoid" else logits
        )
    logits = logits.astype(np.float64)
    if function == "none":
        return logits
    if function == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -logits))
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
