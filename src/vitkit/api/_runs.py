"""`TrainedRun`, the result of training, and helper functions of `train`, `finetune` and `resume`."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitkit.config import JsonDict
from vitkit.logs import LOGGER
from vitkit.text import printable

if TYPE_CHECKING:
    from vitkit.inference import Classifier
    from vitkit.training import Run

#: A path or the name of a data source, a checkpoint or a run folder.
Name = str | os.PathLike[str]
Mode = Literal["full", "head", "lora"]
Parallel = Literal["none", "ddp", "fsdp"]
Settings = Mapping[str, object]
# Maps arguments of the API to names of settings in the run config.
ARGUMENTS = {
    "data": "data.source",
    "val": "data.val",
    "held_out": "data.held_out",
    "model": "model",
    "objective": "objective",
    "init_from": "init_from",
    "steps": "steps",
    "epochs": "epochs",
    "minutes": "minutes",
    "lr": "optimizer.lr",
    "batch_size": "batch_size",
    "patience": "patience",
    "seed": "seed",
    "tune_threshold": "tune_threshold",
    "channels": "model.channels",
    "device": "hardware.device",
    "parallel": "hardware.parallel",
    "max_pixels": "data.max_pixels",
    "max_bytes": "data.max_bytes",
}
MODES: dict[str, JsonDict] = {
    "full": {"tuning.head_only": False, "tuning.lora_rank": 0},
    "head": {"tuning.head_only": True},
    "lora": {"tuning.lora_rank": 8},
}


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """A finished training run, with its folder and the metric and training step of the saved model.

    `metric` is the name of the metric that selects the model, and `score` is the value of this metric. `note` is the
    reason if the run stopped early. `unreadable` are the images that could not be read. `main` is True on rank 0 of a
    parallel run and False on all other ranks, which write no files.
    """

    folder: Path
    metric: str
    score: float
    step: int
    note: str = ""
    unreadable: tuple[str, ...] = ()
    main: bool = True

    @property
    def best(self) -> Path:
        """Checkpoint folder of the saved model, which `vitkit.load` and every command accept."""
        return self.folder / "best"

    @property
    def report(self) -> Path:
        """Path of the report, an HTML file."""
        return self.folder / "report.html"

    @property
    def log(self) -> list[JsonDict]:
        """The events in log.jsonl, such as training steps with loss and speed, and evaluations."""
        from vitkit.training.events import read

        return read(self.folder / "log.jsonl")

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the saved model on the validation images, such as `top1.accuracy`."""
        found = [event for event in self.log if event["kind"] == "evaluation" and event["step"] == self.step]
        hidden = ("kind", "step", "time")
        return {name: value for name, value in found[-1].items() if name not in hidden} if found else {}

    @property
    def config(self) -> "Run":
        """The config of the run, with all settings."""
        from vitkit.training import RunFolder

        return RunFolder(self.folder).run()

    @property
    def summary(self) -> str:
        """The metric of the saved model and its step, such as "top1.accuracy 98.33% at step 1200"."""
        from vitkit.evaluation import formatted

        return f"{self.metric} {formatted(self.metric, self.score)} at step {self.step}"

    def model(self, **options: Any) -> "Classifier":
        """Loads the saved model. `options` are those of `vitkit.load`."""
        from vitkit.inference import load

        return load(self.best, **options)

    def __repr__(self) -> str:
        note = f"\n  {self.note}" if self.note else ""
        lost = f"\n  unreadable images: {len(self.unreadable)}" if self.unreadable else ""
        return f"TrainedRun({printable(self.summary)}){note}{lost}\n  model:  {self.best}\n  report: {self.report}"


def chosen(settings: Settings | None, **arguments: object) -> dict[str, object]:
    """Returns the settings of the run config from the arguments of an API function and from `settings`.

    Arguments that are None are ignored. Raises ValueError if an argument and `settings` set the same setting.
    """
    from vitkit.data.fixes import read_fixes

    found: dict[str, object] = {}
    for name, value in arguments.items():
        if value is None:
            continue
        if name == "image_size":
            found["model.image_size"] = (value, value) if isinstance(value, int) else value
        elif name == "fix":
            found["data.fixes"] = read_fixes(str(value))
        elif name == "mode":
            found |= MODES[str(value)]
        else:
            found[ARGUMENTS[name]] = value
    for name, value in (settings or {}).items():
        if name in found:
            raise ValueError(f"'{name}' was given twice, as {found[name]} and as {value}; give it once")
        found[name] = value
    return found


def source_name(data: Name | None) -> str | None:
    """Converts a name or a path to the name of a data source, such as `folder:photos` for an existing folder."""
    from vitkit.data import source_of

    return None if data is None else source_of(data)


def overridden(run: "Run", settings: Settings, *, adapt_to_data: bool = False) -> "Run":
    """Returns a run with changed settings, and logs which other settings were adapted to the changes.

    With `adapt_to_data`, the number of classes and the evaluators are adapted to the data (`training.adapt`).
    """
    from vitkit.training.adapt import adapt
    from vitkit.training.override import fit_warmup, override

    run, notes = override(run, settings)
    if adapt_to_data and run.data.source:
        # The name of an architecture does not set the number of classes.
        run, more = adapt(
            run, {name for name, value in settings.items() if name != "model" or not isinstance(value, str)}
        )
        notes += more
    run, more = fit_warmup(run, settings)
    for note in [*notes, *more]:
        LOGGER.info(note)
    return run


def recipe_run(
    recipe: "str | Run | None", settings: Settings | None = None, *, out: Name | None = None, **arguments: Any
) -> tuple["Run", Path]:
    """Returns the run and the run folder for the arguments of `vitkit.train`.

    Without a recipe, the run trains the architecture `model` on `data` from random initial weights.
    """
    from vitkit import recipes
    from vitkit.training.scratch import scratch

    options = {name: value for name, value in arguments.items() if value is not None}
    options |= {name: source_name(options[name]) for name in ("data", "val") if name in options}
    options |= {"init_from": str(options["init_from"])} if "init_from" in options else {}
    changes = chosen(settings, **options)
    if recipe is None:
        if not {"model", "data"} <= options.keys():
            raise ValueError(
                "a run without a recipe needs the name of an architecture and data, such as --model vit-ti/16 --data "
                "photos/; `vitkit recipes` lists the recipes"
            )
        parts = {name: options[name] for name in ("model", "data", "val", "held_out") if name in options}
        run = scratch(**parts, needs_labels=needs_labels(str(changes.get("objective", "supervised"))))
        changes = {name: value for name, value in changes.items() if name not in {ARGUMENTS[each] for each in parts}}
    else:
        run = recipes.recipe(recipe) if isinstance(recipe, str) else recipe
    run = overridden(run, changes, adapt_to_data="data.source" in changes)
    return run, Path(out or Path("runs") / folder_name(run.name))


def needs_labels(objective: str) -> bool:
    """Returns whether an objective needs labeled images. Raises ValueError if the name is unknown."""
    from vitkit import objectives

    return bool(getattr(objectives.objective(objective), "NEEDS_LABELS", True))


def start(run: "Run", folder: Name, *, progress: bool) -> TrainedRun:
    """Starts or resumes a run in a folder and returns its result. `progress` shows the progress on standard error."""
    from vitkit import training
    from vitkit.training import events

    # Commands set `progress`. Their process may retain freed memory.
    result = training.train(run, Path(folder), console=events.console() if progress else None, keep_memory=progress)
    return TrainedRun(result.folder, run.metric, result.score, result.step, result.note, result.unreadable, result.main)


def folder_name(name: str) -> str:
    """Converts the name of a run to a folder name: `vit-ti/16 on folder:photos` to `vit-ti-16-photos`."""
    model, _, data = name.partition(" on ")
    parts = [model, Path(data.partition(":")[2] or data).stem]
    return "-".join(re.sub(r"[^\w.+-]+", "-", part).strip("-.") for part in parts if part) or "run"
