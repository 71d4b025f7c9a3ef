"""Config of a training run (`Run`), its conversion to JSON, and the files of a run folder."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vitkit import atomic, discovery, evaluation, models, objectives
from vitkit import config as configs
from vitkit.config import AnyConfig, Json, JsonDict
from vitkit.data import canonical, named
from vitkit.data.augment import Augment
from vitkit.data.fixes import Fix
from vitkit.data.processor import Processor
from vitkit.images import DEFAULT_LIMITS, Limits
from vitkit.regular import read_text
from vitkit.training import plugins
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule
from vitkit.training.tuning import Tuning

# Fields that may change when a run resumes, apart from those of `hardware`: always, and together with the length.
CHANGEABLE = ("patience", "min_delta")
LENGTH = ("steps", "epochs", "minutes")
CHANGEABLE_WITH_LENGTH = (*LENGTH, "objective.epochs", "evaluate_every", "evaluation_share", "schedule.")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Config of the data: the sources of training and validation images.

    The validation data are `val` if given, else the validation split of `source`. If `source` has no validation split,
    a stratified random fraction `held_out` of its images is used, with the seed `split_seed`.

    `max_pixels` and `max_bytes` are limits of an image file. Unreadable images are replaced by other images in training
    and left out of the evaluation. The log lists them. The run fails if more than ten images are unreadable and their
    fraction is above `max_unreadable`.

    `fixes` are corrections: images to relabel, or images to drop (`vitkit.data.fixes`). The config contains them, so
    that a resumed run uses the same corrections.
    """

    source: str
    val: str | None = None
    held_out: float = 0.2
    split_seed: int = 0
    max_pixels: int = DEFAULT_LIMITS.max_pixels
    max_bytes: int = DEFAULT_LIMITS.max_bytes
    max_unreadable: float = 0.1
    fixes: tuple[Fix, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if a value is out of range. Replaces sources in plug-in files with their names."""
        for name in ("source", "val"):
            if getattr(self, name):
                object.__setattr__(self, name, canonical(getattr(self, name)))
        if not 0.0 <= self.max_unreadable <= 1.0:
            raise ValueError(f"data.max_unreadable is {self.max_unreadable}; it must be between 0 and 1")
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def limits(self) -> Limits:
        """Maximum size of an image file, in pixels and in bytes."""
        return Limits(max_pixels=self.max_pixels, max_bytes=self.max_bytes)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Settings for speed, memory, saving and logging, which can change when a run is resumed.

    They do not change what is trained: results with other values differ by rounding at most.

    `workers` is the number of processes that load data. `threads` is torch's number of CPU threads, None for torch's
    default; one thread is fastest for very small models. `parallel` is the parallelism under torchrun: replicas of the
    model (ddp) or sharded parameters (fsdp). `activation_checkpointing` recomputes the activations inside blocks in
    the backward pass to save memory. `compile` compiles the blocks. `tf32` allows TF32 matrix products on NVIDIA GPUs.
    `loggers` adds wandb or mlflow to the TensorBoard files that every run folder has.

    A training checkpoint is written every `save_every` steps, and the newest `keep_checkpoints` are kept. A full
    checkpoint is one file; in a sharded one each process writes its own shards; auto is sharded for fsdp. Any number of
    processes can resume from either. `async_save` copies the checkpoint and writes it in the background.
    """

    device: str = "auto"
    workers: int = 0
    threads: int | None = None
    log_every: int = 10
    save_every: int = 1000
    keep_checkpoints: int = 2
    checkpoint_format: Literal["auto", "full", "sharded"] = "auto"
    async_save: bool = False
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    activation_checkpointing: bool = False
    compile: bool = False
    tf32: bool = False
    loggers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """Config of a training run, which contains the configs of its model, objective, data and optimizer.

    The length is given as `steps` (updates), as `epochs`, or as `minutes` of wall time, from which a short trial
    computes the number of steps (`plan`). `grad_accum_steps` splits a batch into equal parts whose gradients are
    accumulated before the update.

    The model is evaluated by `evaluators` every `evaluate_every` steps and at the end, always on all validation images.
    If `evaluate_every` is None, the model is evaluated up to ten times, and less often if the evaluations would take
    more than the fraction `evaluation_share` of the time. A run with a length in minutes has this limit for any
    `evaluate_every`. `select` chooses the model to save: the `last`, or the `best` by the validation `metric`.
    Selecting the best on the validation images biases its metric slightly upwards. `tune_threshold` saves, for every
    independent label, the threshold with the best F1 on the validation images. With `patience` the run stops early,
    after that many evaluations without an improvement in the metric by more than `min_delta`.

    `init_from` is a checkpoint with initial weights. `init_head` initializes its head with `zeros`, at `random` as in a
    new model, or from the `checkpoint`, which needs the same classes in the same order. `tuning` chooses the trainable
    parameters. `precision` is the dtype of autocast; parameters stay float32. `ema` is the decay of an exponential
    moving average of the weights (0.9999 in the ViT paper); the average is then evaluated and saved.
    """

    name: str
    model: AnyConfig
    objective: AnyConfig
    data: Data
    processor: Processor
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 128
    grad_accum_steps: int = 1
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    seed: int = 0
    init_from: str | None = None
    init_head: Literal["zeros", "random", "checkpoint"] = "zeros"
    tuning: Tuning = field(default_factory=Tuning)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    ema: float | None = None
    evaluators: tuple[str, ...] = ("top1", "confusion")
    evaluate_every: int | None = None
    evaluation_share: float = 0.1
    metric: str = "top1.accuracy"
    select: Literal["best", "last"] = "best"
    tune_threshold: bool = False
    patience: int | None = None
    min_delta: float = 0.0
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of range or contradicts another setting.

        Evaluators in plug-in files (`./mine.py:metric`) are replaced with their names.
        """
        object.__setattr__(self, "evaluators", tuple(map(evaluation.canonical, self.evaluators)))
        check_length(self.steps, self.epochs, self.minutes)
        for name in ("batch_size", "grad_accum_steps", "evaluate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if not 0.0 <= self.evaluation_share < 1.0:
            raise ValueError(f"evaluation_share is {self.evaluation_share}; it must be at least 0 and below 1")
        if self.min_delta < 0:
            raise ValueError(f"min_delta is {self.min_delta}; it must be at least 0")
        if self.init_from is None and self.init_head != "zeros":
            raise ValueError(f"init_head={self.init_head} needs a checkpoint; set init_from")
        if self.ema is not None and not 0.0 < self.ema < 1.0:
            raise ValueError(f"ema is {self.ema}; it must be above 0 and below 1, or none to disable averaging")
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of grad_accum_steps {self.grad_accum_steps}"
            )
        if self.metric.partition(".")[0] not in self.evaluators:
            raise ValueError(
                f"the metric '{self.metric}' does not belong to an evaluator of the run; the evaluators "
                f"are {self.evaluators}"
            )

    def total_steps(self, num_examples: int) -> int:
        """Returns the number of training steps of the run for `num_examples` training images.

        Raises ValueError if the length is in minutes. The number of steps is then in the plan of the run.
        """
        if self.minutes is not None:
            raise ValueError(f"minutes is {self.minutes:g}; the number of steps is known after a trial, see plan.json")
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 0.0) * num_examples / self.batch_size))


def check_length(steps: int | None, epochs: float | None, minutes: float | None) -> None:
    """Raises ValueError unless exactly one length is given, which must be finite and above 0."""
    lengths = {"steps": steps, "epochs": epochs, "minutes": minutes}
    given = {name: value for name, value in lengths.items() if value is not None}
    if len(given) != 1:
        shown = " and ".join(f"{name} is {value}" for name, value in given.items()) or "none of them is set"
        raise ValueError(f"set either steps or epochs or minutes, not several; {shown}")
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; it must be above 0")


def to_dict(run: Run) -> JsonDict:
    """Converts the config of a run to a dict for JSON."""
    data = configs.to_dict(run)
    data |= {"model": models.to_dict(run.model), "objective": objectives.to_dict(run.objective)}
    used = _plugins(run)
    return data | {"plugins": used} if used else data


def _plugins(run: Run) -> list[JsonDict]:
    """Returns descriptions of the plug-in components of a run, for `plugins.restore`."""
    sources = [part for name in (run.data.source, run.data.val) if name for part in name.split("@")]
    names = [("model", models.family_of(run.model)), ("objective", objectives.name_of(run.objective))]
    names += [("evaluator", spec.partition(":")[0]) for spec in run.evaluators]
    names += [("source", named(each)[0]) for each in sources]
    return plugins.described(names)


def from_dict(data: Json) -> Run:
    """Converts the output of `to_dict` back to the config of a run. Raises ValueError for an invalid dict."""
    if "plugins" in data:
        plugins.restore(data["plugins"])
        data = {name: value for name, value in data.items() if name != "plugins"}
    for key in ("model", "objective"):
        if not isinstance(data.get(key), Mapping):
            raise ValueError(f"the field '{key}' of the run config is missing or is not an object with named fields")
    parts = {"model": models.from_dict(data["model"]), "objective": objectives.from_dict(data["objective"])}
    return configs.from_dict(Run, {**data, **parts})


def to_json(run: Run) -> str:
    """Converts the config of a run to the text of a config.json file."""
    return json.dumps(to_dict(run), indent=2) + "\n"


def from_json(text: str) -> Run:
    """Reads the config of a run from the text of config.json. Raises ValueError if the text is invalid."""
    return from_dict(json.loads(text))


def differences(one: Run, other: Run) -> list[str]:
    """Returns the settings that differ between two runs, such as `optimizer.lr`, except those of `hardware`."""
    first, second = _flat(to_dict(one)), _flat(to_dict(other))
    names = sorted((first.keys() | second.keys()) - {"plugins"})
    return [name for name in names if first.get(name) != second.get(name) and not name.startswith("hardware.")]


def _flat(data: Json, prefix: str = "") -> JsonDict:
    flat: JsonDict = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


class RunFolder:
    """Paths of the files in a run folder, and methods that check, save and read its config."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.plan = path / "plan.json"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.report = path / "report.html"
        self.predictions = path / "predictions.csv"

    def check(self, run: Run) -> None:
        """Raises ValueError if the folder contains another run or other files.

        Runs that differ only in the length or in other settings that may change are not different runs. If the run in
        the folder ended before its first step, it can be replaced.
        """
        if self.config.exists() and not self.trained:
            self.run()
        elif self.config.exists():
            found = differences(self.run(), run)
            allowed = CHANGEABLE + (CHANGEABLE_WITH_LENGTH if set(LENGTH) & set(found) else ())
            names = [name for name in found if not name.startswith(allowed)]
            if names:
                shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
                raise ValueError(
                    f"the folder '{self.path}' contains another run, which differs in {shown}; choose another folder"
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(
                f"the path '{self.path}' exists and is not a run folder; choose another name, or an empty folder"
            )
        nearest = next(each for each in (self.path, *self.path.absolute().parents) if each.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            reason = "is not writable" if nearest.is_dir() else "is not a folder"
            raise ValueError(f"the run folder '{self.path}' cannot be written, because '{nearest}' {reason}")

    @property
    def trained(self) -> bool:
        """Whether the folder contains a training checkpoint, a saved model or a log of training steps."""
        if self.best.exists() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir())):
            return True
        return self.log.is_file() and '"kind": "step"' in read_text(self.log)

    def changes(self, run: Run) -> list[str]:
        """Returns the settings that differ from the saved config, such as `steps`. A new folder has no differences."""
        return differences(self.run(), run) if self.config.exists() else []

    def create(self, run: Run) -> None:
        """Creates the folder and saves the config, unless the run was trained before.

        Raises the errors of `check`.
        """
        self.check(run)
        if self.config.exists() and self.trained:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self.save(run)
        self.log.unlink(missing_ok=True)

    def save(self, run: Run) -> None:
        """Saves the config of the run."""
        atomic.write_text(self.config, to_json(run))

    def run(self) -> Run:
        """Reads the saved config of the run. Raises ValueError if the folder contains no run."""
        try:
            text = read_text(self.config)
        except OSError:
            raise ValueError(
                f"the path '{self.path}' is not a run folder, because it has no readable config.json"
            ) from None
        try:
            with discovery.without_code_of(self.path):
                return from_json(text)
        except ValueError as error:
            raise ValueError(f"{self.config} is not the config of a run: {error}") from None
