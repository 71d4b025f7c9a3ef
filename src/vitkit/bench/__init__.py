"""Bench: vitkit beside every other library that is installed, so that what is printed is a ratio and not a boast.

kinds/          one file a kind of measurement: what is run, in which unit, and what counts as the same answer
peers/          one file a library, and one function in it for each kind that it can do
worker.py       the process of one contender           process.py   the parent's end of it
race.py         A B A B: the contenders' rounds, interleaved in time
weights.py      the same weights in every layout       jpegs.py     JPEG files of noise
roofline.py     the measured limit of this machine     machine.py   what this machine is
figures.py      medians, spreads, ratios, verdicts     table.py     for people, JSON and Markdown

Every contender runs in a process of its own, so that imports, threads and peak memory are its own. The parent lets one
run a round while the others sleep, and goes round many times: a busy minute then falls on all of them, and a ratio is
taken between rounds that are neighbours in time. A peer makes a `Prepared` of a `Job` and a `Contender`; a new peer or
a new kind is one new file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Contender", "Job", "Options", "Plan", "Prepared"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person asked for: the product of models and batches, each measured in a section of its own."""

    kind: str
    models: tuple[str, ...] = ("vit-b/16",)
    batches: tuple[int, ...] = (8,)
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    peers: tuple[str, ...] = ()
    threads: int | None = None
    device: str = "auto"
    photos: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How it is measured: `rounds` that count after `warm_up` that do not, each of at least `seconds`.

    Before each round all sleep for `pause` seconds: threads that wait by spinning have then stopped. A contender that
    needs longer than `patience` seconds for its preparation has failed. `preparing` contenders are prepared at the same
    time: more than one saves time where there are cores for it (compiling), and disturbs autotuning.
    """

    rounds: int = 8
    seconds: float = 2.0
    warm_up: int = 2
    pause: float = 0.25
    patience: float = 900.0
    preparing: int = 1

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        for name in ("rounds", "preparing"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seconds", "warm_up", "pause", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all contenders of a section do.

    `task` is the kind, or a part of it. `folder` holds the same weights in every layout (`weights.py`), or is empty;
    `shape` says of the model what the limit is measured by (width, mlp_width, tokens, flops of an image).
    """

    kind: str
    task: str
    model: str
    batch: int
    threads: int
    device: str = "cpu"
    folder: str = ""
    image_size: tuple[int, int] = (224, 224)
    classes: int = 1000
    shape: Mapping[str, int] = field(default_factory=dict)
    photos: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the pipe to a worker."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Job":
        """The job that `to_dict` gave."""
        rows, columns = data["image_size"]
        return cls(**{**data, "image_size": (rows, columns), "photos": tuple(data["photos"])})


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way of doing the job: a peer, its precision (empty where a kind has none), and settings of its own.

    `module` is where its functions are.
    """

    peer: str
    precision: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    module: str = ""

    @property
    def name(self) -> str:
        """As it stands in tables: `timm bfloat16 compile=default`."""
        return " ".join(
            [self.peer, *filter(None, [self.precision]), *(f"{key}={value}" for key, value in self.settings)]
        )

    def setting(self, name: str, default: str = "") -> str:
        """One of its settings."""
        return dict(self.settings).get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the pipe to a worker."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Contender":
        """The contender that `to_dict` gave."""
        return cls(**{**data, "settings": tuple((key, value) for key, value in data["settings"])})


@dataclass(kw_only=True)
class Prepared:
    """A contender ready to run: each call of `run` does `items` (images, operations, starts) and returns when all is
    done.

    `outputs` are what it answers, to be held against the others. `notes` say how it is set. `peak` gives the bytes it
    needed at most, where that is not the process's own memory.
    """

    run: Callable[[], object]
    items: float
    outputs: "np.ndarray | None" = None
    notes: dict[str, str] = field(default_factory=dict)
    peak: Callable[[], int] | None = None
