"""Broken images in the training and validation data cost neither a run nor its reproducibility."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vitkit.data.sources.digits import Digits
from vitkit.training import Run, TrainingStopped, events, session, train
from vitkit.training.checkpointing import files

SCRIPT = Path(__file__).with_name("train_until_killed.py")
BROKEN = {"train": ("0/3.png", "1/17.png", "2/30.png"), "val": ("1/5.png",)}
# What differs between two equal runs: times, and what is measured.
MEASURED = ("time", "images_per_second", "memory_gb", "mfu", "peak_flops", "peak_source")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of digits 0 to 2 as PNG files: 99 for training and 33 for validation, 3 % of each broken."""
    root, digits, counts = tmp_path_factory.mktemp("digits"), Digits(), dict.fromkeys("012", 0)
    for index in range(Digits.__len__(digits)):
        name = str(digits.label(index))
        number = counts.get(name, 99)
        if number >= 44:
            continue
        split, number = ("train", number) if number < 33 else ("val", number - 33)
        path = root / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        digits.read(index).image.save(path)
        counts[name] += 1
    assert set(counts.values()) == {44}
    for split, names in BROKEN.items():
        for name in names:
            path = root / split / name
            path.write_bytes(path.read_bytes()[:50])
    return root


@pytest.fixture(autouse=True)
def few_digits() -> None:
    """All digits, unlike in the other tests."""


def finished(data: Path, folder: Path, *kills: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), f"folder:{data}", str(folder), *kills]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def logged(folder: Path) -> list[dict[str, Any]]:
    found = [event for event in events.read(folder / "log.jsonl") if event["kind"] not in ("start", "resume")]
    return [{name: value for name, value in event.items() if name not in MEASURED} for event in found]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.slow
def test_a_run_with_broken_images_that_is_killed_twice_equals_an_uninterrupted_one(
    images: Path, tmp_path: Path
) -> None:
    one = finished(images, tmp_path / "one")
    # During the first evaluation, right after its checkpoint, and in the middle of training.
    other = finished(images, tmp_path / "other", "evaluation:10", "step:18")
    assert other.pop("killed") == 2
    assert one.pop("killed") == 0
    assert one == other
    named = " ".join(one["unreadable"])
    assert all(name in named for names in BROKEN.values() for name in names)
    assert len(one["unreadable"]) == 4
    assert logged(tmp_path / "one") == logged(tmp_path / "other")
    losses = [event["loss"] for event in logged(tmp_path / "one") if event["kind"] == "step"]
    assert len(losses) == 30
    best = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert best[0] == best[1]
    states = [files.load_full(files.newest_complete(tmp_path / name / "checkpoints")) for name in ("one", "other")]  # type: ignore[arg-type]
    assert equal(states[0], states[1])
    report = (tmp_path / "one" / "report.html").read_text()
    assert "Unreadable images: 4" in report
    assert all(name in report for names in BROKEN.values() for name in names)


def small(small_run: Callable[..., Run], images: Path, **changes: object) -> Run:
    run = small_run(model__num_classes=3, steps=6, evaluate_every=2, batch_size=8, evaluators=["top1"], **changes)
    return replace(run, data=replace(run.data, source=f"folder:{images}"))


def test_a_checkpoint_is_saved_before_each_evaluation(
    small_run: Callable[..., Run], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small(small_run, images, hardware__save_every=100)

    def fails(*args: object) -> dict[str, float]:
        raise ValueError("it cannot be computed")

    with monkeypatch.context() as patch:
        patch.setattr(session.evaluation, "evaluate", fails)
        with pytest.raises(TrainingStopped, match="the evaluation of step 2 failed: it cannot be computed"):
            train(run, tmp_path / "run")
    assert [path.name for path in files.list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000002"]
    result = train(run, tmp_path / "run")  # the evaluation is repeated
    evaluated = [
        event["step"] for event in events.read(tmp_path / "run" / "log.jsonl") if event["kind"] == "evaluation"
    ]
    assert evaluated == [2, 4, 6]
    assert result.score == max(
        event["top1.accuracy"] for event in events.read(tmp_path / "run" / "log.jsonl") if "top1.accuracy" in event
    )


def test_a_completed_run_is_not_evaluated_again(small_run: Callable[..., Run], images: Path, tmp_path: Path) -> None:
    run = small(small_run, images)
    one = train(run, tmp_path / "run")
    before = events.read(tmp_path / "run" / "log.jsonl")
    assert train(run, tmp_path / "run") == one
    after = events.read(tmp_path / "run" / "log.jsonl")
    assert [event for event in after if event["kind"] == "evaluation"] == [
        event for event in before if event["kind"] == "evaluation"
    ]


def test_too_many_unreadable_images_end_a_run_after_a_checkpoint(
    small_run: Callable[..., Run], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkit.data.unreadable.TOLERATED", 0)
    run = small(small_run, images, data__max_unreadable=0.0)
    with pytest.raises(TrainingStopped, match=r"\d of \d+ images could not be read, but the limit is 0%; repair"):
        train(run, tmp_path / "run")
    assert files.list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [event["kind"] for event in events.read(tmp_path / "run" / "log.jsonl")][-1] == "stopped"


def test_data_without_a_readable_image_is_rejected_before_the_run(
    small_run: Callable[..., Run], images: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / name / "val" / split / "1.png" for name in ("data",) for split in "012"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"oops")
    (tmp_path / "data" / "train").symlink_to(images / "train")
    with pytest.raises(
        ValueError, match=r"no validation image can be read; the first error is: 0/1\.png: the file is not"
    ):
        train(small(small_run, tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_limits_are_part_of_the_run(small_run: Callable[..., Run], images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no training image can be read; the first error is: 0/0\.png: .*max_pixels"):
        train(small(small_run, images, data__max_pixels=63), tmp_path / "run")
    with pytest.raises(ValueError, match=r"data\.max_bytes is 0; it must be at least 1"):
        small(small_run, images, data__max_bytes=0)
    with pytest.raises(ValueError, match=r"data\.max_unreadable is 2\.0; it must be between 0 and 1"):
        small(small_run, images, data__max_unreadable=2.0)
