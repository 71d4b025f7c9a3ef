"""`Run`: the whole of a training run as one frozen config, to JSON and back."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitkit import atomic, models, objectives
from vitkit import config as configs
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule
from vitkit.train.tuning import Tune


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is learned from and what is judged on: `val`, else the source's own split, else a share held out
    (stratified).
    """

    source: str
    val: str | None = None
    held_out: float = 0.2
    split_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how fast, never what: a run goes on with the same numbers when these change, but for rounding.

    `workers` are processes that prepare batches beside the training, `threads` those of torch on the CPU, None for its
    own choice: one for a very small model, where two would mostly wait for each other. `parallel` is how the processes
    of torchrun share the work: each holds the whole model (ddp) or a shard of it (fsdp). `recompute` keeps no
    activations inside blocks and computes them again in the backward pass; `compile` compiles the blocks; `tf32` allows
    the shorter matrix products of NVIDIA GPUs. `loggers` also tell wandb or mlflow what
    TensorBoard's files in the run folder always say. A `state` to go on from is gathered whole into one file, or is
    sharded: each process writes its part; auto is sharded for fsdp. Either is taken up again by any number of
    processes. With `save_beside` it is copied and written while the training goes on.
    """

    device: str = "auto"
    workers: int = 0
    threads: int | None = None
    log_every: int = 10
    save_every: int = 1000
    keep: int = 2
    state: Literal["auto", "whole", "sharded"] = "auto"
    save_beside: bool = False
    parallel: Literal["none", "ddp", "fsdp"] = "none"
    recompute: bool = False
    compile: bool = False
    tf32: bool = False
    loggers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run; `model` is the config of a family and `objective` that of an objective.

    Its length is `steps` updates, or `epochs` passes over the training pictures. `accumulate` splits a batch into parts
    whose gradients are added before the update. After every `evaluate_every` steps, and at the end, the model is judged
    by `evaluators`; kept is the `last` model, or the `best`: the one whose number `score` was highest. The best number
    of a run is chosen by the held-out pictures, so it flatters a little; the last is not.

    `start` is a checkpoint whose weights the run starts from. Its head is replaced by a `new` one of zeros, or by one
    `drawn` as in a fresh model, or `kept`, where it has as many classes and in the order of the data's; `tune` says
    what of them learns. `precision` is that of the products in training (autocast; weights and sums stay float32).
    `average` is the share of its past that a running mean of the weights keeps at each step (Polyak averaging; the
    paper's 0.9999); then the mean is what is judged and saved.
    """

    name: str
    model: Any
    objective: Any
    data: Data
    processor: Processor
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 128
    accumulate: int = 1
    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    start: str | None = None
    start_head: Literal["new", "drawn", "kept"] = "new"
    tune: Tune = field(default_factory=Tune)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    average: float | None = None
    evaluators: tuple[str, ...] = ("top1", "confusion")
    evaluate_every: int = 1000
    score: str = "top1.accuracy"
    keep: Literal["best", "last"] = "best"
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        """Refuses what would fail in the middle of a run."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"a run lasts for steps or for epochs: steps is {self.steps} and epochs {self.epochs}")
        for name in ("batch_size", "accumulate", "evaluate_every", "steps", "epochs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if self.start is None and self.start_head != "new":
            raise ValueError(
                f"start_head is {self.start_head}, of a checkpoint to start from, and there is none: set start"
            )
        if self.average is not None and not 0.0 < self.average < 1.0:
            raise ValueError(f"average is {self.average}; it lies between 0 and 1, or is none for no averaging")
        if self.batch_size % self.accumulate:
            raise ValueError(f"a batch of {self.batch_size} cannot be split into {self.accumulate} equal parts")
        if self.score.partition(".")[0] not in self.evaluators:
            raise ValueError(f"models are judged by '{self.score}', but the evaluators are {self.evaluators}")

    def total_steps(self, num_examples: int) -> int:
        """How many updates the run has over that many training pictures."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil((self.epochs or 0.0) * num_examples / self.batch_size))


def to_dict(run: Run) -> dict[str, Any]:
    """The JSON form of a run."""
    data = configs.to_dict(run)
    return data | {"model": models.to_dict(run.model), "objective": objectives.to_dict(run.objective)}


def from_dict(data: Mapping[str, Any]) -> Run:
    """The run that `to_dict` gave as `data`; ValueError as `config.from_dict`."""
    for key in ("model", "objective"):
        if not isinstance(data.get(key), Mapping):
            raise ValueError(f"a run needs its '{key}' as an object with named fields")
    parts = {"model": models.from_dict(data["model"]), "objective": objectives.from_dict(data["objective"])}
    return configs.from_dict(Run, {**data, **parts})


def to_json(run: Run) -> str:
    """The text of a run's config.json."""
    return json.dumps(to_dict(run), indent=2) + "\n"


def from_json(text: str) -> Run:
    """The run of a config.json; ValueError for text that is none."""
    return from_dict(json.loads(text))


def differences(one: Run, other: Run) -> list[str]:
    """The dotted names that two runs disagree on, how they are computed (`machine`) left out."""
    first, second = _flat(to_dict(one)), _flat(to_dict(other))
    names = sorted(first.keys() | second.keys())
    return [name for name in names if first.get(name) != second.get(name) and not name.startswith("machine.")]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


class RunFolder:
    """The places in a run folder."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.log = path / "log.jsonl"
        self.states = path / "checkpoints"
        self.best = path / "best"
        self.report = path / "report.html"

    def refuse(self, run: Run) -> None:
        """Raises ValueError, with nothing written, where the folder holds another run or other things."""
        if self.config.exists():
            names = differences(self.run(), run)
            if names:
                shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
                raise ValueError(f"'{self.path}' holds another run, which differs in {shown}: choose another folder")
            return
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"'{self.path}' exists and is no run folder: choose another name, or an empty folder")

    def claim(self, run: Run) -> None:
        """Makes the folder this run's own, or finds that it is already; ValueError as `refuse`."""
        self.refuse(run)
        if self.config.exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.config, to_json(run))

    def run(self) -> Run:
        """The run that the folder holds; ValueError where it holds none."""
        try:
            text = self.config.read_text(encoding="utf-8")
        except OSError:
            raise ValueError(f"'{self.path}' is no run folder: it has no config.json that can be read") from None
        try:
            return from_json(text)
        except ValueError as error:
            raise ValueError(f"{self.config} is not the config of a run: {error}") from None
