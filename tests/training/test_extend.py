"""A run folder contains all that is needed to resume its run, and to train it for longer."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slow_cases import slow_except
from test_plan import costs
from test_resume import assert_equal, final, history, kill_at

from vitkit import objectives
from vitkit.objectives import dino
from vitkit.training import Interrupted, Run, RunFolder, loop, plan, train, trial
from vitkit.training.events import read
from vitkit.training.extend import resumed


def test_a_stopped_run_resumes_from_its_folder_with_the_same_bits(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_run(), tmp_path / "once")
    with monkeypatch.context() as patch:
        kill_at(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(small_run(), tmp_path / "run")
    train(resumed(tmp_path / "run"), tmp_path / "run")
    assert_equal(final(tmp_path / "run"), final(tmp_path / "once"))
    assert history(tmp_path / "run") == history(tmp_path / "once")


@pytest.mark.parametrize("length", slow_except({"steps": {"steps": 20}, "epochs": {"epochs": 3.0}}, "steps"))
def test_a_finished_run_is_extended_with_the_schedule_of_the_new_length(
    small_run: Callable[..., Run], tmp_path: Path, length: dict[str, Any]
) -> None:
    train(small_run(evaluate_every=None), tmp_path / "run")
    finished = final(tmp_path / "run")
    run = resumed(tmp_path / "run", **length, changes={"patience": 50, "hardware.log_every": 1})
    total = run.total_steps(191)
    train(run, tmp_path / "run")
    assert finished["training"]["step"] == 12
    assert final(tmp_path / "run")["training"]["step"] == total > 12
    assert RunFolder(tmp_path / "run").run() == run
    log = read(tmp_path / "run" / "log.jsonl")
    rates = {event["step"]: event["lr"] for event in log if event["kind"] == "step"}
    expected = {step: 1e-2 * loop.factor(run.schedule, step - 1, total) for step in range(13, total + 1)}
    assert {step: rate for step, rate in rates.items() if step > 12} == pytest.approx(expected)
    (changed,) = [event for event in log if event["kind"] == "changed"]
    assert (changed["total_before"], changed["total"]) == (12, total)
    assert [event["step"] for event in log if event["kind"] == "evaluation"][-1] == total


def test_minutes_are_those_of_the_whole_run(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    update = loop.update

    def timed(training: Any, batch: Any) -> Any:
        now[0] += 1.0
        return update(training, batch)

    monkeypatch.setattr(plan, "now", lambda: now[0])
    monkeypatch.setattr("vitkit.training.events.time.time", lambda: now[0])
    monkeypatch.setattr(loop, "update", timed)
    monkeypatch.setattr(trial, "measure", lambda *_: costs(1.0, 0.1))
    train(small_run(steps=None, minutes=0.5), tmp_path / "run")
    first = final(tmp_path / "run")["training"]["step"]
    assert now[0] == pytest.approx(27, abs=3)
    train(resumed(tmp_path / "run", minutes=1.0), tmp_path / "run")
    assert now[0] == pytest.approx(57, abs=5)
    assert final(tmp_path / "run")["training"]["step"] == pytest.approx(2 * first, abs=6)
    with pytest.raises(ValueError, match=r"minutes is 0\.8, but the run has trained for .* set minutes to at least"):
        train(resumed(tmp_path / "run", minutes=0.8), tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 4}, "was already trained for 12 steps, but steps is 4; set steps to at least 12"),
        ({"steps": 20, "epochs": 2.0}, "not several; steps is 20 and epochs is 2"),
        ({"steps": 20, "changes": {"steps": 30}}, "the setting 'steps' is given twice; give it once"),
        ({"changes": {"optimizer.lr": 0.1}}, r"'optimizer\.lr' cannot be changed in a resumed run, which can"),
        ({"changes": {"hardware.worker": 1}}, r"unknown key 'hardware\.worker'"),
    ],
)
def test_what_cannot_be_resumed(
    small_run: Callable[..., Run], trained: Path, arguments: dict[str, Any], message: str
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        train(resumed(trained, **arguments), trained)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def trained(small_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(small_run(), folder)
    return folder


def test_a_warm_up_that_was_fitted_into_minutes_fits_into_steps(small_run: Callable[..., Run], tmp_path: Path) -> None:
    run = small_run(steps=None, minutes=5.0, schedule=replace(small_run().schedule, warmup=100))
    RunFolder(tmp_path / "run").create(run)
    extended = resumed(tmp_path / "run", steps=20)
    assert (extended.steps, extended.minutes, extended.schedule.warmup) == (20, None, 2)
    assert resumed(tmp_path / "run", steps=200).schedule.warmup == 100
    assert resumed(tmp_path / "run", steps=20, changes={"schedule.warmup": 7}).schedule.warmup == 7


def test_a_folder_without_a_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run folder, because it has no readable config\.json"):
        resumed(tmp_path)


def test_the_epochs_of_an_objective_follow(small_run: Callable[..., Run], tmp_path: Path) -> None:
    run = small_run(steps=None, epochs=2.0)
    config = objectives.to_dict(dino.Config(epochs=2))
    run = Run(**{**vars(run), "objective": objectives.from_dict(config)})
    folder = RunFolder(tmp_path)
    folder.save(run)
    assert resumed(tmp_path, epochs=4).objective.epochs == 4
