"""Early stopping, and runs that train on with more steps or epochs."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import Job, ends, run_in_two

from vitkit import evaluation
from vitkit.cli import main
from vitkit.training import Interrupted, Run, RunFolder, launch, train
from vitkit.training.checkpointing import saving
from vitkit.training.events import read
from vitkit.training.stopping import EarlyStopping


def weights(folder: Path) -> dict[str, Any]:
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    return saved["training"]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read(folder / "log.jsonl") if event["kind"] == kind]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["step"] == other["step"]
    assert all(torch.equal(tensor, other["objective"][name]) for name, tensor in one["objective"].items())
    for number, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][number][name]) for name, value in moments.items())


def test_a_longer_run_with_a_constant_schedule_equals_an_uninterrupted_one(
    small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = {"schedule__decay": "constant", "evaluate_every": 3}
    train(small_run(**run), tmp_path / "once")
    train(small_run(**run, steps=6), tmp_path / "twice")
    result = train(small_run(**run), tmp_path / "twice")
    assert result.note == ""
    assert_same(weights(tmp_path / "twice"), weights(tmp_path / "once"))
    assert RunFolder(tmp_path / "twice").run() == small_run(**run)
    # The same command again trains nothing.
    before = (tmp_path / "twice" / "log.jsonl").read_text()
    train(small_run(**run), tmp_path / "twice")
    assert [event["total"] for event in events(tmp_path / "twice", "changed")] == [12]
    assert len(before.splitlines()) <= len((tmp_path / "twice" / "log.jsonl").read_text().splitlines())


def test_the_learning_rate_follows_the_longer_schedule(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(steps=6), tmp_path / "run")
    # Fields that `finetune` derives from the length may change with it.
    train(small_run(evaluate_every=4, schedule__warmup=2), tmp_path / "run")
    (change,) = events(tmp_path / "run", "changed")
    assert (change["step"], change["total_before"], change["total"]) == (6, 6, 12)
    assert change["fields"] == ["evaluate_every", "schedule.warmup", "steps"]
    assert "12 steps instead of 6: the cosine schedule of 12 steps from here" in change["note"]
    rates = {event["step"]: event["lr"] for event in events(tmp_path / "run", "step")}
    train(small_run(evaluate_every=4, schedule__warmup=2), tmp_path / "once")
    expected = {event["step"]: event["lr"] for event in events(tmp_path / "once", "step")}
    assert [rates[step] for step in range(7, 13)] == [expected[step] for step in range(7, 13)]
    assert rates[6] != expected[6]


def test_epochs_can_grow_and_steps_can_become_epochs(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(steps=None, epochs=0.5), tmp_path / "run")
    assert weights(tmp_path / "run")["step"] == 4  # 191 images in batches of 28
    train(small_run(steps=None, epochs=0.8), tmp_path / "run")
    assert weights(tmp_path / "run")["step"] == 6
    train(small_run(steps=7), tmp_path / "run")
    assert weights(tmp_path / "run")["step"] == 7


def test_a_shorter_run_is_rejected_and_nothing_changed(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(steps=6), tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"was already trained for 6 steps, but steps is 4; set steps to at least 6"):
        train(small_run(steps=4), tmp_path / "run")
    with pytest.raises(ValueError, match=r"another run, which differs in optimizer\.lr; choose another folder"):
        train(small_run(steps=9, optimizer__lr=0.5), tmp_path / "run")
    # Without another length, the schedule is part of the run.
    with pytest.raises(ValueError, match=r"another run, which differs in evaluate_every, schedule\.decay"):
        train(small_run(steps=6, evaluate_every=2, schedule__decay="linear"), tmp_path / "run")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_can_end_where_it_stopped(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = launch.Events.step

    def interrupt(self: Any, number: int, *rest: Any) -> None:
        original(self, number, *rest)
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(launch.Events, "step", interrupt)
        with pytest.raises(Interrupted):
            train(small_run(evaluate_every=10), tmp_path / "run")
    result = train(small_run(evaluate_every=10, steps=4), tmp_path / "run")
    assert result.step == 4
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The values of the metric in the evaluations of a run."""
    values: list[float] = []
    original = evaluation.evaluate

    def evaluated(subject: evaluation.ModelOutputs, names: Any) -> dict[str, float]:
        step = len(seen)
        seen.append(step)
        return {**original(subject, names), "top1.accuracy": values[step]}

    seen: list[int] = []
    monkeypatch.setattr("vitkit.training.session.evaluation.evaluate", evaluated)
    return values


def test_a_run_stops_when_its_metric_does_not_improve(
    small_run: Callable[..., Run], tmp_path: Path, metric: list[float]
) -> None:
    metric += [0.1, 0.3, 0.3, 0.29, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    result = train(small_run(evaluate_every=1, patience=2), tmp_path / "run")
    assert (result.score, result.step) == (0.3, 2)
    assert result.note == "stopped early at step 4: top1.accuracy has not improved for 2 evaluations"
    assert weights(tmp_path / "run")["step"] == 4
    assert [event["step"] for event in events(tmp_path / "run", "early_stop")] == [4]
    assert "Training stopped early at step 4" in (tmp_path / "run" / "report.html").read_text()
    # The same command again trains nothing, more patience does.
    assert train(small_run(evaluate_every=1, patience=2), tmp_path / "run").note == result.note
    assert weights(tmp_path / "run")["step"] == 4
    assert train(small_run(evaluate_every=1, patience=3), tmp_path / "run").step == 5
    assert weights(tmp_path / "run")["step"] == 8
    assert "Training stopped early at step 8" in (tmp_path / "run" / "report.html").read_text()
    assert [event["fields"] for event in events(tmp_path / "run", "changed")] == [["patience"]]


def test_small_improvements_do_not_count(small_run: Callable[..., Run]) -> None:
    counted = EarlyStopping(small_run(patience=2, min_delta=0.01))
    found = []
    for step, value in enumerate([0.1, 0.104, 0.112, 0.113, 0.115]):
        counted.add(step, value)
        counted.add(step, 9.0)  # an evaluation is counted once
        found.append((counted.stale, counted.exhausted))
    assert found == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    assert counted.reason.endswith("top1.accuracy has not improved by more than 0.01 for 2 evaluations")


def test_the_command_trains_a_longer_run_and_stops_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["model.depth=1", "model.width=16", "model.num_heads=2", "hardware.device=cpu", "schedule.warmup=0"]
    command = ["train", "digits.tiny", "--out", str(tmp_path / "run"), "--set", *model, "batch_size=32"]
    command += ["optimizer.lr=1e-12", "patience=2"]
    assert main([*command, "steps=2", "evaluate_every=1"]) == 0
    capsys.readouterr()
    assert main([*command, "steps=8", "evaluate_every=1"]) == 0
    output = capsys.readouterr()
    assert "8 steps instead of 2: the cosine schedule of 8 steps from here" in " ".join(output.err.split())
    # The step depends on the rounding of the machine, although the learning rate is close to 0.
    pattern = r"\(stopped early at step [2-7]: top1\.accuracy has not improved for 2 evaluations\)"
    assert re.search(pattern, output.out)


def test_a_resumed_run_stops_at_the_same_step(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(evaluate_every=1, patience=2, optimizer__lr=1e-9, schedule__warmup=0)
    train(run, tmp_path / "once")
    stopped = weights(tmp_path / "once")
    assert stopped["step"] < 12
    original = launch.Events.step

    def interrupt(self: Any, number: int, *rest: Any) -> None:
        original(self, number, *rest)
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(launch.Events, "step", interrupt)
        with pytest.raises(Interrupted):
            train(run, tmp_path / "twice")
    assert train(run, tmp_path / "twice").note == train(run, tmp_path / "once").note != ""
    assert_same(weights(tmp_path / "twice"), stopped)


@pytest.mark.slow
def test_two_processes_train_on_and_stop_together(small_run: Callable[..., Run], tmp_path: Path) -> None:
    ddp = {"hardware__parallel": "ddp"}
    early = small_run(evaluate_every=1, patience=1, optimizer__lr=1e-12, schedule__warmup=0, **ddp)
    jobs = [
        Job(small_run(steps=4, **ddp), tmp_path / "run"),
        Job(small_run(steps=8, **ddp), tmp_path / "run"),
        Job(early, tmp_path / "early"),
    ]
    run_in_two(jobs, tmp_path / "scratch")
    assert [end.error for folder in ("run", "early") for end in ends(tmp_path / folder)] == [""] * 4
    assert weights(tmp_path / "run")["step"] == 8
    assert [event["step"] for event in events(tmp_path / "run", "changed")] == [4]
    assert weights(tmp_path / "early")["step"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"patience": 0}, "patience is 0; it must be above 0"), ({"min_delta": -0.1}, "min_delta is -0.1")],
)
def test_invalid_settings(small_run: Callable[..., Run], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_run(**changes)
