"""Checks that evaluators can compute their metrics, before any image is read.

An evaluator may define `check(data)`. If the evaluator has an argument, it is the second parameter, as for `evaluate`.
`check` raises ValueError if the metrics cannot be computed for the model and the labels, and returns the names of the
metrics. A run and `vitkit evaluate` call it before they start, so that hours of training do not end at the first
evaluation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vitkit.data import Source
from vitkit.data.processor import Processor
from vitkit.evaluation import canonical, evaluator, reads
from vitkit.models import Backbone
from vitkit.text import plural


@dataclass(frozen=True)
class EvaluationData:
    """Model and images of an evaluation, for checks. The model can be on the meta device, because it is not run."""

    model: Backbone
    source: Source
    training: Source | None = None
    processor: Processor | None = None

    @property
    def original_model(self) -> Backbone:
        """The original model if `model` is a copy that is optimized for inference, otherwise `model`."""
        return getattr(self.model, "original", self.model)

    @property
    def num_classes(self) -> int:
        """The number of classes of the labels."""
        return len(self.source.classes)

    @cached_property
    def counts(self) -> Int[np.ndarray, " classes"]:
        """The number of evaluation images of each class. Raises ValueError if no image has a label."""
        return _counts(self.source, "image")

    @cached_property
    def training_counts(self) -> Int[np.ndarray, " classes"]:
        """The number of training images of each class.

        An image with several labels counts only for its first label.
        """
        if self.training is None:
            raise ValueError("knn, fewshot, probe and linear need labeled training images, but none were given")
        return _counts(self.training, "training image")

    def check_split(self) -> None:
        """Raises ValueError if no class has two training images, of which one can be held out."""
        if self.training_counts.max() < 2:
            raise ValueError(
                "a held-out set needs a class with at least two training images, but every class has fewer"
            )


def check(data: EvaluationData, names: Iterable[str]) -> dict[str, tuple[str, ...] | None]:
    """Raises ValueError if an evaluator cannot compute its metrics for the model and the data.

    Returns the metric names of each evaluator, or None for an evaluator that does not list them.
    """
    if not len(data.source):
        raise ValueError("there are no images to evaluate on; expected at least one")
    known: dict[str, tuple[str, ...] | None] = {}
    for spec in map(canonical, names):
        module, (name, colon, argument) = evaluator(spec), spec.partition(":")
        _check_inputs(data, spec)
        prefix = f"{name}:{Path(argument).stem}" if colon else name
        function = getattr(module, "check", None)
        found = None if function is None else function(data, argument) if colon else function(data)
        known[prefix] = found if found is None else tuple(found)
    return known


def check_metric(metric: str, known: dict[str, tuple[str, ...] | None], data: EvaluationData) -> None:
    """Raises ValueError if no evaluator computes the metric, such as `top1.accuracy`, for the data."""
    prefix, _, name = metric.rpartition(".")
    names = known.get(prefix)
    if prefix not in known or (names is not None and name not in names):
        every = [f"{evaluator}.{each}" for evaluator, metrics in known.items() for each in metrics or ()]
        training = 0 if data.training is None else len(data.training)
        raise ValueError(
            f"no evaluator computes the metric '{metric}' for {plural(training, 'training image')} and "
            f"{plural(len(data.source), 'validation image')} of {data.num_classes} classes; set metric to one of "
            f"{', '.join(every)}"
        )


def top5(data: EvaluationData) -> tuple[str, ...]:
    """Returns ("top5",) if there are more than five classes, otherwise an empty tuple."""
    return ("top5",) if data.num_classes > 5 else ()


def _check_inputs(data: EvaluationData, spec: str) -> None:
    kind, classes = reads(spec), data.model.config.num_classes
    if kind == "predictions" and classes == 0:
        raise ValueError("the model has no classes; evaluate it with knn, fewshot or probe")
    if kind == "predictions" and classes != data.num_classes:
        raise ValueError(f"the model has {classes} classes, but the labels have {data.num_classes} classes")
    if kind == "representations":
        _ = data.training_counts, data.counts
        if getattr(data.model.config, "pool", None) == "none" and not spec.startswith("linear"):
            raise ValueError(
                f"the evaluator {spec} needs one vector per image, but the model has no pooling; set pool to token or "
                "gap"
            )


def _counts(source: Source, what: str) -> Int[np.ndarray, " classes"]:
    labels = (source.label(index) for index in range(len(source)))
    first = [label if isinstance(label, int) else min(label, default=-1) for label in labels]
    counts = np.bincount(np.array([label for label in first if label >= 0], dtype=int), minlength=len(source.classes))
    if not counts.any():
        raise ValueError(f"no {what} has a label; expected at least one")
    return counts
