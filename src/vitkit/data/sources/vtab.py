"""Data source `vtab:eurosat@hub:owner/name`: one of the 19 tasks of VTAB-1k, with 1,000 training images.

Zhai et al. 2020, "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark". After the
at sign follows the source of the images (a folder, Parquet files, the Hub, ...); the default is the public mirror in
`TASKS`. `vtab:TASK` has all 1,000 training images (`train`) and the test set (`test`). `vtab:TASK:tune` has 800
training images (`train`) and the other 200 (`val`), for the choice of the learning rate.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack

import numpy as np

from vitkit.config import nearest
from vitkit.data import Example, Label, ReadOptions, Source, Subset, splits

TRAIN, VAL = 800, 200


@dataclass(frozen=True)
class Task:
    """A VTAB task: its group, its number of classes, its name in the public mirror, and the fractions of its splits.

    train, val   fractions of the published training set for training and validation; the rest is the test set if none
                 was published. A published validation set is used unchanged.
    val_of_test  fraction of the published test set for validation; the rest is the test set
    """

    group: str
    classes: int
    mirror: str
    train: float = 0.9
    val: float = 0.1
    val_of_test: float = 0.0

    @property
    def source(self) -> str:
        """The source of the task's public mirror: WebDataset shards on the Hub with the labels of VTAB."""
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
class TaskSplits:
    """The full training, validation and test sets of a task, before 1,000 images are selected."""

    train: Source
    val: Source
    test: Source


def open_source(location: str) -> dict[str, Source]:
    """Returns the splits `train` (1,000 images) and `test`, or `train` (800) and `val` (200) for `TASK:tune`.

    Raises ValueError for an unknown task, a wrong number of classes and too few images.
    """
    selection, at, name = location.partition("@")
    task_name, colon, purpose = selection.partition(":")
    if task_name not in TASKS:
        raise ValueError(f"VTAB has no task '{task_name}'{nearest(task_name, TASKS)}")
    if (colon and purpose != "tune") or (at and not name):
        raise ValueError(f"expected vtab:TASK, vtab:TASK:tune or vtab:TASK@SOURCE, got 'vtab:{location}'")
    task = TASKS[task_name]
    full = task_splits(task, splits(name or task.source), name or task.source)
    check_classes(task_name, task, full.train)
    train, val = first(full.train, TRAIN, task_name), first(full.val, VAL, task_name)
    if purpose:
        return {"train": train, "val": val}
    return {"train": Concatenation(train, val), "test": full.test}


def task_splits(task: Task, found: dict[str, Source], name: str, *, seed: int | None = 0) -> TaskSplits:
    """Returns the training, validation and test sets of a VTAB task.

    A split is shuffled with `seed` before it is divided, because folders are sorted by class. None keeps the
    order of the source, which is right for the records of TensorFlow Datasets, on which the benchmark is defined.
    """
    training = found.get("train") or found.get("all")
    if training is None:
        raise ValueError(f"'{name}' has no training split; its splits are {', '.join(found)}")
    test = found.get("test")
    if "val" in found:
        return TaskSplits(shuffled(training, seed), shuffled(found["val"], seed), test or found["val"])
    if test is not None and task.val_of_test:
        val, rest = divide(test, [task.val_of_test, 1.0], seed)
        return TaskSplits(shuffled(training, seed), val, rest)
    if test is not None:
        fraction = task.train / (task.train + task.val)
        train, val = divide(training, [fraction, 1.0], seed)
        return TaskSplits(train, val, test)
    if task.train + task.val > 0.95:
        raise ValueError(f"this VTAB task needs a test split, but '{name}' has none")
    train, val, rest = divide(training, [task.train, task.train + task.val, 1.0], seed)
    return TaskSplits(train, val, rest)


def divide(source: Source, ends: list[float], seed: int | None) -> list[Source]:
    """Splits a source at the given cumulative fractions of its length. The source is shuffled unless `seed` is None."""
    order = np.arange(len(source)) if seed is None else np.random.default_rng(seed).permutation(len(source))
    bounds = [0, *(int(end * len(source) + 1e-6) for end in ends)]
    return [Subset(source, order[start:end]) for start, end in pairwise(bounds)]


def shuffled(source: Source, seed: int | None) -> Source:
    """Returns the source in random order, or in unchanged order if `seed` is None."""
    return divide(source, [1.0], seed)[0]


def first(source: Source, number: int, task: str) -> Source:
    """Returns the first `number` images of a source. Raises ValueError if the source has fewer images."""
    if len(source) < number:
        raise ValueError(f"VTAB-1k needs {number} images from a split of '{task}', but the split has {len(source)}")
    return Subset(source, np.arange(number))


def check_classes(name: str, task: Task, source: Source) -> None:
    """Raises ValueError if the source and the task have different numbers of classes."""
    if len(source.classes) != task.classes:
        raise ValueError(f"VTAB task '{name}' has {task.classes} classes, but its source has {len(source.classes)}")


class Concatenation(Source):
    """The images of two sources with the same classes, one source after the other."""

    def __init__(self, one: Source, other: Source):
        self.one = one
        self.other = other
        self.classes = one.classes
        self.skipped = tuple(dict.fromkeys(one.skipped + other.skipped))
        self.lost = one.lost if one.skipped == other.skipped else one.lost + other.lost

    def __len__(self) -> int:
        """Returns the number of images in both sources."""
        return len(self.one) + len(self.other)

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns the example at an index. Indices of the second source follow those of the first."""
        source, inner = self._locate(index)
        return source.read(inner, **options)

    def label(self, index: int) -> Label:
        """Returns the label at an index. Indices of the second source follow those of the first."""
        source, inner = self._locate(index)
        return source.label(inner)

    def key(self, index: int) -> str:
        """Returns the key at an index. Indices of the second source follow those of the first."""
        source, inner = self._locate(index)
        return source.key(inner)

    def _locate(self, index: int) -> tuple[Source, int]:
        length = len(self.one)
        return (self.one, index) if index < length else (self.other, index - length)
