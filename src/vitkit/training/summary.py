"""Evaluates the saved model of a run folder and writes the report."""

from vitkit import atomic, checkpoints, evaluation
from vitkit.data import Subset, Unlabelled
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.unreadable import Unreadable
from vitkit.report.training import TrainingReport, html
from vitkit.training import run as runs
from vitkit.training.adapt import open_data
from vitkit.training.events import read
from vitkit.training.run import RunFolder


def write_report(folder: RunFolder) -> None:
    """Evaluates the saved model and writes the report. Raises ValueError if no model has been saved yet."""
    if not folder.best.is_dir():
        raise ValueError(
            f"the run folder '{folder.path}' contains no saved model yet; continue the run until its first evaluation"
        )
    atomic.write_text(folder.report, html(load_report(folder)))


def load_report(folder: RunFolder) -> TrainingReport:
    """Returns the content of the report: the log of the run, and predictions of the saved model."""
    run = folder.run()
    data = run.data
    training, validation = open_data(run)
    model = checkpoints.load(folder.best)
    transform = Transform(model.processor, limits=data.limits)
    unreadable = Unreadable(len(validation), data.max_unreadable)
    outputs = evaluation.ModelOutputs(
        model.model,
        lambda: evaluation_batches(validation, transform, batch_size=run.batch_size, unreadable=unreadable),
        validation.classes,
    )
    predictions = outputs.predictions if validation.classes else None
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
        validation=unreadable.readable(validation),
        predictions=predictions,
        model=model,
    )
