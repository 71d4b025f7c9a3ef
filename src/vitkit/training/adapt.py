"""Opens the data of a run, and changes the settings of a recipe to fit other classes or unlabeled images."""

from collections.abc import Collection
from dataclasses import replace

from vitkit import evaluation, objectives
from vitkit.data import Source, train_and_val
from vitkit.data.fixes import fixed_splits
from vitkit.training.run import Run

#: Metric of a run whose images have no labels.
UNLABELLED_METRIC = "rank.effective"


def open_data(run: Run) -> tuple[Source, Source]:
    """Returns the training images and the validation images of a run.

    Raises the errors of `data.train_and_val` and `data.fixes.fixed_splits`. Raises ValueError if the images have no
    labels and the objective needs labels.
    """
    data = run.data
    needs_labels = objectives.needs_labels(run.objective)
    training, validation = train_and_val(
        data.source, val=data.val, held_out=data.held_out, seed=data.split_seed, needs_labels=needs_labels
    )
    return fixed_splits(training, validation, data.fixes)


def adapt(run: Run, chosen: Collection[str] = ()) -> tuple[Run, list[str]]:
    """Returns a run with settings adapted to the data, except those in `chosen`, and notes on the changes.

    The model gets as many classes as the data. If the data have no labels, evaluators that need labels are left out;
    if the metric is one of theirs, the run is evaluated by the effective rank and saves the last model.
    """
    source, _ = open_data(run)
    notes: list[str] = []
    classes = len(source.classes)
    if run.model.num_classes != classes and not {"model", "model.num_classes"} & set(chosen):
        notes.append(f"model.num_classes is {classes} instead of {run.model.num_classes}, as in '{run.data.source}'")
        run = replace(run, model=replace(run.model, num_classes=classes))
    needless = [name for name in run.evaluators if not evaluation.needs_labels(name)]
    if classes or len(needless) == len(run.evaluators) or {"evaluators", "metric"} & set(chosen):
        return run, notes
    dropped = ", ".join(name for name in run.evaluators if name not in needless)
    changes: dict[str, object] = {"evaluators": tuple(needless)}
    if run.metric.partition(".")[0] not in needless:
        extra = UNLABELLED_METRIC.partition(".")[0]
        changes = {"evaluators": tuple(dict.fromkeys([*needless, extra])), "metric": UNLABELLED_METRIC}
        changes |= {} if "select" in chosen else {"select": "last"}
    notes.append(f"'{run.data.source}' has no labels of two or more classes: not evaluated by {dropped}")
    return replace(run, **changes), notes  # type: ignore[arg-type]
