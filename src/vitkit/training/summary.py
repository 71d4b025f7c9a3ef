"""Evaluates the saved model of a run folder and writes the report."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from vitkit import atomic, checkpoints, evaluation
from vitkit.data import Source, Subset, Unlabelled
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.unreadable import Unreadable
from vitkit.report import predictions
from vitkit.report.training import TrainingReport, html
from vitkit.task import Task
from vitkit.training import run as runs
from vitkit.training.adapt import open_data
from vitkit.training.events import read
from vitkit.training.run import RunFolder


@dataclass(frozen=True)
class Evaluated:
    """Predictions of the saved model for the validation images, and the unreadable images."""

    predictions: evaluation.Predictions | None
    unreadable: Unreadable

    @classmethod
    def of(cls, outputs: evaluation.ModelOutputs, task: Task, unreadable: Unreadable) -> Self | None:
        """Returns the predictions of an evaluation during training, or None if no evaluator computed predictions.

        `task` is the task of the saved model.
        """
        found = vars(outputs).get("predictions")  # a cached property
        return None if found is None else cls(replace(found, task=task), unreadable)


def write_report(folder: RunFolder, evaluated: Evaluated | None = None) -> None:
    """Writes the report of the saved model and the files with its predictions.

    `evaluated` contains the predictions of the saved model. If None, the saved model is evaluated. Raises ValueError if
    no model has been saved yet.
    """
    if not folder.best.is_dir():
        raise ValueError(
            f"the run folder '{folder.path}' contains no saved model yet; continue the run until its first evaluation"
        )
    report = load_report(folder, evaluated)
    links = predictions.write(folder.path, report.predictions, report.validation.classes, "val")
    atomic.write_text(folder.report, html(report, links))


def load_report(folder: RunFolder, evaluated: Evaluated | None = None) -> TrainingReport:
    """Returns the content of the report: the log of the run, and predictions of the saved model."""
    run = folder.run()
    data = run.data
    training, validation = open_data(run)
    model = checkpoints.load(folder.best)
    evaluated = evaluated or evaluate_saved(run, model, validation)
    held_out = validation.source if isinstance(validation, Unlabelled) else validation
    kind = "random" if training.regression else "stratified"
    own_split = f"{kind} split of {data.held_out:.0%}, seed {data.split_seed}"
    return TrainingReport(
        name=run.name,
        data=data.source,
        split=data.val or (own_split if isinstance(held_out, Subset) else "its own validation split"),
        config=runs.to_json(run),
        metric=run.metric,
        selection=run.select,
        events=read(folder.log),
        training=training,
        validation=evaluated.unreadable.readable(validation),
        predictions=evaluated.predictions,
        model=model,
    )


def autocast_dtype(run: runs.Run) -> torch.dtype | None:
    """Returns the autocast dtype of training steps and evaluations, or None for float32."""
    return None if run.precision == "float32" else getattr(torch, run.precision)


def evaluate_saved(run: runs.Run, model: checkpoints.Checkpoint, validation: Source) -> Evaluated:
    """Returns the predictions of the saved model of a run for the validation images."""
    transform = Transform(model.processor, limits=run.data.limits)
    unreadable = Unreadable(len(validation), run.data.max_unreadable)
    outputs = evaluation.ModelOutputs(
        model.model,
        lambda: evaluation_batches(validation, transform, batch_size=run.batch_size, unreadable=unreadable),
        validation.classes,
        autocast=autocast_dtype(run),
    )
    return Evaluated(outputs.predictions if validation.classes else None, unreadable)
