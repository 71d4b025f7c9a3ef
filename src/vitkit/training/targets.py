"""The task of a run, inferred from its training data."""

from dataclasses import replace

import numpy as np

from vitkit import evaluation
from vitkit.config import AnyConfig
from vitkit.data import Source
from vitkit.task import SINGLE_LABEL, Task
from vitkit.training.run import Run


def inferred_task(source: Source) -> Task:
    """Returns the task that fits the labels or numbers of the training data.

    Numbers as targets are a regression, standardized by their mean and standard deviation. Labels are independent if an
    image has several labels, or an empty list of labels. Everything else is one class per image. Raises ValueError for
    targets that cannot be standardized.
    """
    if source.regression:
        return _regression(source)
    labels = (source.label(index) for index in range(len(source)))
    if any(isinstance(label, tuple) and len(label) != 1 for label in labels):
        return Task(problem_type="multi_label_classification")
    return SINGLE_LABEL


def first_multilabel(source: Source) -> int | None:
    """Returns the index of the first image with several labels, or None if there is none."""
    labels = (source.label(index) for index in range(len(source)))
    return next((index for index, label in enumerate(labels) if isinstance(label, tuple) and len(label) > 1), None)


def _regression(source: Source) -> Task:
    values = np.array([source.targets(index) for index in range(len(source))], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = values.mean(axis=0), values.std(axis=0)
    for name, column, center, spread in zip(source.classes, values.T, mean, std, strict=True):
        if not np.isfinite(column).all():
            index = int(np.flatnonzero(~np.isfinite(column))[0])
            raise ValueError(f"image {index} has the target {name}={column[index]}; targets must be finite")
        if not np.isfinite(spread) or abs(center) > np.finfo(np.float32).max:
            raise ValueError(
                f"the values of the target '{name}' are too large to standardize; the mean is {center:.3g}"
            )
        if spread <= 1e-12 * max(abs(center), 1e-300):
            raise ValueError(f"all training images have the target {name}={column[0]:.6g}; there is nothing to learn")
    return Task(problem_type="regression", target_mean=tuple(mean.tolist()), target_std=tuple(std.tolist()))


def with_task(run: Run, source: Source) -> Run:
    """Returns the run with the task of its model set according to its training data and objective.

    A run that trains independent labels gets this task if its images have several; a regression gets the statistics of
    its targets. Raises ValueError if the objective does not fit the data.
    """
    loss = getattr(run.objective, "loss", None)
    if source.regression:
        if loss != "mse":
            raise ValueError(
                f"the targets of the data source '{run.data.source}' are numbers; "
                "set objective.loss=mse evaluators='[\"regression\"]' metric=regression.r2"
            )
        return run if run.model.task.target_std else replace(run, model=_with(run.model, _regression(source)))
    if loss == "mse" or run.model.task.regression:
        raise ValueError(
            f"the data source '{run.data.source}' has classes, but the run predicts numbers; "
            "append #target=COLUMN to it"
        )
    if loss == "sigmoid" and run.model.task == SINGLE_LABEL and first_multilabel(source) is not None:
        return _with_labels(run, Task(problem_type="multi_label_classification"))
    return run


def _with_labels(run: Run, task: Task) -> Run:
    """Returns a multi-label run. Evaluators of other tasks are removed, unless the metric belongs to one of them."""
    fits = tuple(each for each in run.evaluators if task.problem_type in evaluation.problem_types(each))
    evaluators = fits if run.metric.partition(".")[0] in fits else run.evaluators
    return replace(run, model=_with(run.model, task), evaluators=evaluators)


def _with(model: AnyConfig, task: Task) -> AnyConfig:
    return replace(model, task=task)
