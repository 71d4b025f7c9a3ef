"""`vtab:eurosat@hub:owner/name`: one of the 19 tasks of VTAB-1k, with the 1,000 training pictures it takes.

Zhai et al. 2020, "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark". Behind the
at sign stands where the task's pictures are (any source: a folder, Parquet files, the hub); without it, the public
mirror of `TASKS`. `vtab:TASK` trains on all 1,000 (`train`) and is judged on the test set (`test`); `vtab:TASK:tune`
trains on 800 and is judged on the other 200 (`val`), to choose a learning rate by.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack

import numpy as np

from vitkit.config import nearest
from vitkit.data import Example, Label, Opening, Source, Subset, splits

TRAIN, VAL = 800, 200


@dataclass(frozen=True)
class Task:
    """A task of VTAB: its group, how many classes, its name in the mirror, and where its splits are cut.

    `train` and `val` are the shares of the published training set that the benchmark trains and validates on; what is
    left is its test set where none was published. A published validation set is used as it is. `val_of_test` is the
    share of a published test set that is validated on, the rest being tested on.
    """

    group: str
    classes: int
    mirror: str
    train: float = 0.9
    val: float = 0.1
    val_of_test: float = 0.0

    @property
    def source(self) -> str:
        """The public mirror: WebDataset shards on the hub, with the labels that VTAB makes of the annotations."""
        return f"hub:clip-benchmark/wds_{self.mirror}#label=cls"


TASKS: dict[str, Task] = {
    "caltech101": Task("natural", 102, "vtab-caltech101"),
    "cifar100": Task("natural", 100, "vtab-cifar100"),
    "dtd": Task("natural", 47, "vtab-dtd"),
    "flowers102": Task("natural", 102, "vtab-flowers"),
    "pets": Task("natural", 37, "vtab-pets", train=0.8, val=0.2),
    "sun397": Task("natural", 397, "sun397"),
    "svhn": Task("natural", 10, "vtab-svhn"),
    "camelyon": Task("specialised", 2, "vtab-pcam"),
    "eurosat": Task("specialised", 10, "vtab-eurosat", train=0.6, val=0.2),
    "resisc45": Task("specialised", 45, "vtab-resisc45", train=0.6, val=0.2),
    "retinopathy": Task("specialised", 5, "vtab-diabetic_retinopathy"),
    "clevr_count": Task("structured", 8, "vtab-clevr_count_all"),
    "clevr_distance": Task("structured", 6, "vtab-clevr_closest_object_distance"),
    "dmlab": Task("structured", 6, "vtab-dmlab"),
    "dsprites_location": Task("structured", 16, "vtab-dsprites_label_x_position", train=0.8, val=0.1),
    "dsprites_orientation": Task("structured", 16, "vtab-dsprites_label_orientation", train=0.8, val=0.1),
    "kitti_distance": Task("structured", 4, "vtab-kitti_closest_vehicle_distance"),
    "smallnorb_azimuth": Task("structured", 18, "vtab-smallnorb_label_azimuth", val_of_test=0.5),
    "smallnorb_elevation": Task("structured", 9, "vtab-smallnorb_label_elevation", val_of_test=0.5),
}


@dataclass(frozen=True)
class Spans:
    """A task's own training, validation and test pictures, before the thousand are taken."""

    train: Source
    val: Source
    test: Source


def open_source(location: str) -> dict[str, Source]:
    """`train` (1,000) and `test`, or of `TASK:tune` `train` (800) and `val` (200).

    Raises ValueError for an unknown task, for pictures of more classes than the task has, and for too few of them.
    """
    words, at, name = location.partition("@")
    word, colon, purpose = words.partition(":")
    if word not in TASKS:
        raise ValueError(f"VTAB has no task '{word}'{nearest(word, TASKS)}")
    if (colon and purpose != "tune") or (at and not name):
        raise ValueError(f"a task is written vtab:TASK, vtab:TASK:tune or vtab:TASK@SOURCE, not 'vtab:{location}'")
    task = TASKS[word]
    spans = spans_of(task, splits(name or task.source), name or task.source)
    refuse_classes(word, task, spans.train)
    train, val = first(spans.train, TRAIN, word), first(spans.val, VAL, word)
    if purpose:
        return {"train": train, "val": val}
    return {"train": Joined(train, val), "test": spans.test}


def spans_of(task: Task, found: dict[str, Source], name: str, *, seed: int | None = 0) -> Spans:
    """Which pictures of a source the benchmark trains, validates and tests on.

    Where one split is cut, its order is first permuted by `seed`: folders come class by class. None leaves the order
    of the source, which is right for the records of TensorFlow Datasets, on which the benchmark was defined.
    """
    training = found.get("train") or found.get("all")
    if training is None:
        raise ValueError(f"'{name}' has nothing to train on; it has the splits {', '.join(found)}")
    test = found.get("test")
    if "val" in found:
        return Spans(shuffled(training, seed), shuffled(found["val"], seed), test or found["val"])
    if test is not None and task.val_of_test:
        val, rest = cut(test, [task.val_of_test, 1.0], seed)
        return Spans(shuffled(training, seed), val, rest)
    if test is not None:
        share = task.train / (task.train + task.val)
        train, val = cut(training, [share, 1.0], seed)
        return Spans(train, val, test)
    if task.train + task.val > 0.95:
        raise ValueError(f"'{name}' has no test split, and the task was published with one")
    train, val, rest = cut(training, [task.train, task.train + task.val, 1.0], seed)
    return Spans(train, val, rest)


def cut(source: Source, ends: list[float], seed: int | None) -> list[Source]:
    """The source in parts that end at those shares of it, after a permutation by `seed`, if there is one."""
    order = np.arange(len(source)) if seed is None else np.random.default_rng(seed).permutation(len(source))
    places = [0, *(int(end * len(source) + 1e-6) for end in ends)]
    return [Subset(source, order[start:end]) for start, end in pairwise(places)]


def shuffled(source: Source, seed: int | None) -> Source:
    """The whole source in another order."""
    return cut(source, [1.0], seed)[0]


def first(source: Source, number: int, task: str) -> Source:
    """The first pictures; ValueError where there are too few."""
    if len(source) < number:
        raise ValueError(f"VTAB-1k takes {number} pictures of a part of '{task}' that has only {len(source)}")
    return Subset(source, np.arange(number))


def refuse_classes(name: str, task: Task, source: Source) -> None:
    """Raises ValueError where the pictures have other classes than the task."""
    if len(source.classes) != task.classes:
        raise ValueError(f"'{name}' has {task.classes} classes, but the pictures given have {len(source.classes)}")


class Joined(Source):
    """Two sources of the same classes, one after the other."""

    def __init__(self, one: Source, other: Source):
        self.one = one
        self.other = other
        self.classes = one.classes

    def __len__(self) -> int:
        """Both together."""
        return len(self.one) + len(self.other)

    def read(self, index: int, **opening: Unpack[Opening]) -> Example:
        """As the source that has it reads it."""
        source, place = self._place(index)
        return source.read(place, **opening)

    def label(self, index: int) -> Label:
        """As the source that has it gives it."""
        source, place = self._place(index)
        return source.label(place)

    def _place(self, index: int) -> tuple[Source, int]:
        here = len(self.one)
        return (self.one, index) if index < here else (self.other, index - here)
