"""Sources `part` and `vtab`: selected images and errors."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import data
from vitkit.data import Source
from vitkit.data.sources import vtab
from vitkit.recipes import vtab as protocol


def labels(source: Source) -> list[int]:
    found = [source.label(index) for index in range(len(source))]
    assert all(isinstance(each, int) for each in found)
    return found  # type: ignore[return-value]


def keys(source: Source) -> list[str]:
    return [source.read(index).key for index in range(len(source))]


def test_selected_classes_are_renumbered() -> None:
    full, some = data.source("digits"), data.source("part:classes=5-7+0@digits")
    assert some.classes == ("5", "6", "7", "0")
    assert len(some) == sum(label in (5, 6, 7, 0) for label in labels(full))
    for index in (0, 3, len(some) - 1):
        example = some.read(index)
        assert some.classes[example.label] == str(full.label(int(example.key.removeprefix("digit "))))  # type: ignore[index]


def test_fractions_are_stratified_and_nested_and_rest_is_the_complement() -> None:
    small, large = (set(keys(data.source(f"part:fraction={fraction}@digits"))) for fraction in (0.05, 0.2))
    assert small < large
    found = labels(data.source("part:number=7@digits"))
    assert np.bincount(found).tolist() == [7] * 10
    sampled, rest = (set(keys(data.source(f"part:number=7{setting}@digits"))) for setting in ("", ",rest=1"))
    assert not sampled & rest
    assert len(sampled | rest) == 1797
    other = set(keys(data.source("part:number=7,seed=1@digits")))
    assert other != sampled


def table(path: Path, numbers: dict[str, int], classes: int) -> str:
    """Write a JSON-lines file with `numbers` tiny images per split and cyclic labels; return its source name."""
    Image.new("RGB", (2, 2)).save(path / "0.png")
    lines = []
    for split, number in numbers.items():
        for index in range(number):
            name = f"{split}{index}.png"
            os.link(path / "0.png", path / name)
            lines.append(json.dumps({"image": name, "label": index % classes, "split": split}))
    (path / "all.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:{path / 'all.jsonl'}"


def test_a_part_changes_only_the_training_split(tmp_path: Path) -> None:
    found = data.splits(f"part:fraction=0.5,classes=0+1@{table(tmp_path, {'train': 42, 'test': 30}, 3)}")
    assert {name: len(each) for name, each in found.items()} == {"train": 14, "test": 20}
    (alone,) = data.splits(f"part:split=train,number=2@jsonl:{tmp_path / 'all.jsonl'}").items()
    assert (alone[0], len(alone[1])) == ("all", 6)
    inner = f"part:split=train,number=5@jsonl:{tmp_path / 'all.jsonl'}"
    sampled, rest = (set(keys(data.source(f"part:fraction=0.8{setting}@{inner}"))) for setting in ("", ",rest=1"))
    assert (len(sampled), len(rest), len(sampled | rest)) == (12, 3, 15)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("digits", "such as part:classes=0-4"),
        ("classes=0-4@", "such as part:classes=0-4"),
        ("fractions=0.1@digits", "of data source 'part'; did you mean 'fraction'"),
        ("fraction=2@digits", "above 0 and at most 1"),
        ("fraction=x@digits", "'fraction=x' of data source 'part': could not convert"),
        ("number=0@digits", "at least 1"),
        ("fraction=0.5,number=3@digits", "accepts either fraction or number, not both"),
        ("rest=1@digits", "set the sample size with fraction or number"),
        ("classes=0-10@digits", "selects class 10, but the classes are 0 to 9"),
        ("classes=nine@digits", "selects the unknown class 'nine'"),
        ("classes=1+0-3@digits", "selects class 1 more than once"),
        ("split=train@digits", "'digits' has no split 'train'; choose from all"),
        ("fraction=1.0,rest=1@digits", "selects no images"),
    ],
)
def test_invalid_parts_raise(location: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.splits(f"part:{location}")


def test_the_tasks_are_those_of_the_protocol() -> None:
    assert tuple(vtab.TASKS) == protocol.TASKS
    assert [len(tasks) for tasks in protocol.GROUPS.values()] == [7, 4, 8]
    assert sum(task.classes for task in vtab.TASKS.values()) == 102 + 100 + 47 + 102 + 37 + 397 + 10 + 62 + 83
    assert len({task.source for task in vtab.TASKS.values()}) == 19


@pytest.mark.parametrize(
    ("task", "classes", "splits", "test"),
    [
        ("svhn", 10, {"train": 2200, "test": 50}, 50),  # 90 and 10 % of the training set
        ("dtd", 47, {"train": 900, "val": 300, "test": 60}, 60),  # three published splits
        ("eurosat", 10, {"train": 2000}, 400),  # 60, 20 and 20 % of the only one
        ("dsprites_location", 16, {"train": 3000}, 300),
        ("smallnorb_elevation", 9, {"train": 900, "test": 800}, 400),  # half of the test set is for validation
    ],
)
def test_a_task_has_1000_training_images_and_its_test_set(
    tmp_path: Path, task: str, classes: int, splits: dict[str, int], test: int
) -> None:
    source = table(tmp_path, splits, classes)
    full, tune = data.splits(f"vtab:{task}@{source}"), data.splits(f"vtab:{task}:tune@{source}")
    assert {name: len(each) for name, each in full.items()} == {"train": 1000, "test": test}
    assert {name: len(each) for name, each in tune.items()} == {"train": 800, "val": 200}
    both = set(keys(tune["train"])) | set(keys(tune["val"]))
    assert both == set(keys(full["train"]))
    assert len(both) == 1000
    assert not both & set(keys(full["test"]))
    assert labels(full["train"]) == labels(tune["train"]) + labels(tune["val"])
    # Folders are sorted by class, so the order is shuffled before the split, with a fixed seed.
    assert labels(tune["train"]) != sorted(labels(tune["train"]))
    assert keys(data.splits(f"vtab:{task}@{source}")["train"]) == keys(full["train"])


def test_seed_none_keeps_the_order_of_the_source(tmp_path: Path) -> None:
    found = data.splits(table(tmp_path, {"train": 1000, "test": 10}, 10))
    sets = vtab.task_splits(vtab.TASKS["svhn"], found, "here", seed=None)
    assert keys(sets.train) + keys(sets.val) == keys(found["train"])
    assert len(sets.train) == 900


@pytest.mark.parametrize(
    ("location", "numbers", "message"),
    [
        ("pet@{}", {"train": 10}, "VTAB has no task 'pet'; did you mean 'pets'"),
        ("pets:test@{}", {"train": 10}, "expected vtab:TASK, vtab:TASK:tune"),
        ("pets@", {"train": 10}, "expected vtab:TASK"),
        ("svhn@{}", {"train": 1000}, "this VTAB task needs a test split, but '.*' has none"),
        ("eurosat@{}", {"train": 1000}, "needs 800 images from a split of 'eurosat', but the split has 600"),
        ("svhn@{}", {"test": 10}, "has no training split; its splits are test"),
        ("dtd@{}", {"train": 900, "val": 300, "test": 9}, "'dtd' has 47 classes, but its source has 10"),
    ],
)
def test_invalid_tasks_raise(tmp_path: Path, location: str, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.splits("vtab:" + location.format(table(tmp_path, numbers, 10)))
