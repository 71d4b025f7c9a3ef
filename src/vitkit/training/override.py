"""Changes settings of a run by name, and adapts the settings that depend on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vitkit import config as configs
from vitkit import models, objectives
from vitkit.checkpoints.preprocessing import resized
from vitkit.training.adapt import open_data
from vitkit.training.run import LENGTH, Run

# Evaluator and metric of a run whose objective needs no labels: a k-NN classifier on features, with k = 20.
FEATURES = ("knn", "knn.k20")


@dataclass
class Override:
    """A run whose settings are being changed, the settings chosen by the user, and notes on adapted settings."""

    run: Run
    chosen: Mapping[str, object]
    notes: list[str] = field(default_factory=list)

    def follow(self, name: str, value: object, because: str) -> None:
        """Adapts a setting to a chosen setting, and adds a note. Does nothing if the user has set both."""
        # If the user gives only the name of a model or an objective, its fields are not chosen by the user.
        whole = [
            each
            for each, given in self.chosen.items()
            if each not in ("model", "objective") or not isinstance(given, str)
        ]
        if any(name == each or name.startswith(f"{each}.") for each in whole):
            return
        before: Any = self.run
        for part in name.split("."):
            before = getattr(before, part)
        if before != value:
            self.run = configs.override(self.run, {name: value})
            self.notes.append(f"{name} is {_short(value)} instead of {_short(before)}, {because}")


def override(run: Run, changes: Mapping[str, object]) -> tuple[Run, list[str]]:
    """Returns a run with changed settings, such as `{"optimizer.lr": 1e-3}`, and notes on adapted settings.

    The value of `model` or `objective` is a config or a name. A new length (`steps`, `epochs` or `minutes`) replaces
    the old length. Settings that depend on a change are adapted, unless `changes` contains them: the number of classes
    and channels of a new model, the image size of the processor, the pixel statistics of an objective, the evaluators
    of an objective without labels, and the warm-up of a shorter run.
    """
    changes = {name: configs.parse(value) if isinstance(value, str) and name in LENGTH else value
               for name, value in changes.items()}  # fmt: skip
    lengths = [name for name in LENGTH if changes.get(name) is not None]
    if len(lengths) > 1:
        given = " and ".join(f"{name} is {changes[name]}" for name in lengths)
        raise ValueError(f"set either steps or epochs or minutes, not several; {given}")
    if lengths:
        changes = {**{name: None for name in LENGTH if name not in changes}, **changes}
    values = dict(changes)
    state = Override(run, changes)
    for name, named in (("model", _model), ("objective", _objective)):
        if isinstance(text := changes.get(name), str):
            values[name] = named(text, run)
    state.run = configs.override(run, values)
    for follow in (_image_size, _initial_weights, _statistics, _evaluators, _length):
        follow(state, run)
    return state.run, state.notes


def fit_warmup(run: Run, chosen: Mapping[str, object]) -> tuple[Run, list[str]]:
    """Shortens the warm-up if `epochs` was changed and the run has fewer steps than the warm-up.

    Opens the data.
    """
    warmup = run.schedule.warmup
    if run.epochs is None or not warmup or "epochs" not in chosen or "schedule.warmup" in chosen:
        return run, []
    total = run.total_steps(len(open_data(run)[0]))
    if warmup < total:
        return run, []
    note = f"schedule.warmup is {total // 10} instead of {warmup}, because the run has {total} steps"
    return configs.override(run, {"schedule.warmup": total // 10}), [note]


def _model(name: str, run: Run) -> Any:
    """Returns the config of an architecture with the number of classes, channels and task of the run."""
    model = models.preset(name)
    return replace(model, num_classes=run.model.num_classes, channels=run.model.channels, task=run.model.task)


def _objective(name: str, run: Run) -> Any:
    return objectives.objective(name).Config()


def _image_size(state: Override, before: Run) -> None:
    """Sets the image size and the number of channels of the processor to those of the model."""
    model, processor = state.run.model, state.run.processor
    if tuple(model.image_size) != tuple(before.model.image_size):
        processor = resized(processor, tuple(model.image_size))
    if model.channels != before.model.channels:
        processor = processor.with_channels(model.channels)
    if processor != state.run.processor and not any(name.startswith("processor") for name in state.chosen):
        what = f"{model.image_size[0]} x {model.image_size[1]} pixels and {model.channels} channels"
        state.run = replace(state.run, processor=processor)
        state.notes.append(f"the processor is for {what}, as in the model")


def _initial_weights(state: Override, before: Run) -> None:
    """Removes the checkpoint with initial weights if the new model has another architecture."""
    if "model" not in state.chosen or before.init_from is None:
        return
    if type(state.run.model) is not type(before.model) or state.run.model.width != before.model.width:
        state.follow("init_head", "zeros", "as in a run without initial weights")
        state.follow("init_from", None, "because its architecture is another one")


def _statistics(state: Override, before: Run) -> None:
    """Sets the mean and std of an objective on pixels to those of the processor."""
    objective, processor = state.run.objective, state.run.processor
    changed = objective is not before.objective or processor is not before.processor
    for prefix, part in (("objective.", objective), ("objective.colors.", getattr(objective, "colors", None))):
        for name in ("mean", "std"):
            value = getattr(part, name, None)
            if changed and value is not None and tuple(value) != tuple(getattr(processor, name)):
                state.follow(f"{prefix}{name}", tuple(getattr(processor, name)), "as in the processor")


def _evaluators(state: Override, before: Run) -> None:
    """For an objective without labels, evaluates features and saves the last model."""
    supervised = objectives.needs_labels(state.run.objective)
    if supervised or not objectives.needs_labels(before.objective) or {"evaluators", "metric"} & {*state.chosen}:
        return
    evaluator, metric = FEATURES
    because = f"because the objective {objectives.to_dict(state.run.objective)['objective']} trains no head"
    state.run = replace(state.run, evaluators=(evaluator,), metric=metric)
    state.notes.append(f"evaluators is {evaluator} and metric is {metric}, {because}")
    state.follow("select", "last", because)


def _length(state: Override, before: Run) -> None:
    """Shortens a warm-up that is longer than the run, and sets `epochs` of an objective to those of the run."""
    run, warmup = state.run, state.run.schedule.warmup
    if run.steps is not None and warmup >= run.steps > 1:
        state.follow("schedule.warmup", run.steps // 10, f"because the run has {run.steps} steps")
    epochs = getattr(run.objective, "epochs", None)
    if run.epochs is not None and epochs is not None and epochs != run.epochs:
        state.follow("objective.epochs", run.epochs, "as in the run")


def _short(value: object) -> str:
    if isinstance(value, tuple) and value and all(isinstance(each, float) for each in value):
        return "(" + ", ".join(f"{each:.4g}" for each in value) + ")"
    return "none" if value is None else str(value)
