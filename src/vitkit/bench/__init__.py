"""Benchmarks that compare the speed of vitkit and other libraries on the same tasks.

kinds/          one file per kind of benchmark: what is measured, the unit, and the comparison of outputs
peers/          one file per library, with one function for each kind that it supports
measure.py      from options to a report            rounds.py     interleaved rounds of all candidates
worker.py       the process of one candidate        _inputs.py    weights in all layouts, synthetic JPEG files
roofline.py     the measured limit of the hardware  machine.py    description of the hardware
figures.py      medians, quartiles, ratios          table.py      reports for the terminal, JSON and Markdown

Every candidate runs in a separate process with its own imports, threads and peak memory. The parent process lets one
candidate at a time run a round while the others sleep, in many turns, so that load on the machine affects all of them,
and takes ratios within a turn. A peer returns a `Prepared` for a `Job` and a `Candidate`. A new peer or kind is one new
file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vitkit.config import Json, JsonDict

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Candidate", "Job", "Options", "Plan", "Prepared"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a benchmark. The report has one section for each combination of model and batch size."""

    kind: str
    models: tuple[str, ...] = ("vit-b/16",)
    batches: tuple[int, ...] = (8,)
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    peers: tuple[str, ...] = ()
    threads: int | None = None
    device: str = "auto"
    images: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of the measurement, such as the number of rounds and the duration of a round.

    Attributes:
        rounds: Number of measured rounds.
        seconds: Minimum duration of a round in seconds.
        warm_up: Number of rounds before the measured ones.
        pause: Seconds to sleep before each round, so that spinning threads of other candidates have stopped.
        timeout: Seconds after which a candidate that is still in preparation has failed.
        preparing: Number of candidates that are prepared in parallel. Values above 1 save time but disturb autotuning.
    """

    rounds: int = 8
    seconds: float = 2.0
    warm_up: int = 2
    pause: float = 0.25
    timeout: float = 900.0
    preparing: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError if a number or a duration is out of range."""
        for name in ("rounds", "preparing"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seconds", "warm_up", "pause", "timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Job:
    """The task that all candidates of a report section perform, such as inference with one model and batch size.

    `task` is the kind or a part of it. `folder` has the same weights in every layout (see `_inputs`), or is empty.
    `shape` has the numbers that determine the limit: width, mlp_width, tokens and flops per image.
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
    images: tuple[str, ...] = ()

    def to_dict(self) -> JsonDict:
        """Converts this object to a dict for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Json) -> "Job":
        """Creates a job from the dict that `to_dict` returns."""
        rows, columns = data["image_size"]
        return cls(**{**data, "image_size": (rows, columns), "images": tuple(data["images"])})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A library to benchmark, with its precision (empty if there is none), settings and Python module."""

    peer: str
    precision: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    module: str = ""

    @property
    def name(self) -> str:
        """The name shown in tables, such as `timm bfloat16 compile=default`."""
        return " ".join(
            [self.peer, *filter(None, [self.precision]), *(f"{key}={value}" for key, value in self.settings)]
        )

    def setting(self, name: str, default: str = "") -> str:
        """Returns the value of a setting, or `default` if it is not set."""
        return dict(self.settings).get(name, default)

    def to_dict(self) -> JsonDict:
        """Converts this object to a dict for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Json) -> "Candidate":
        """Creates a candidate from the dict that `to_dict` returns."""
        return cls(**{**data, "settings": tuple((key, value) for key, value in data["settings"])})


@dataclass(kw_only=True)
class Prepared:
    """A loaded candidate: a function to measure, and the outputs to compare with other candidates.

    Attributes:
        run: Processes `items` and returns when the computation is complete.
        items: Number of images, operations or processes per call.
        outputs: Outputs to compare with those of other candidates.
        notes: Settings for the report.
        peak: Returns the peak memory in bytes (default: that of the process).
    """

    run: Callable[[], object]
    items: float
    outputs: "np.ndarray | None" = None
    notes: dict[str, str] = field(default_factory=dict)
    peak: Callable[[], int] | None = None
