"""A run that is stopped at any step and resumed ends with the same bits as an uninterrupted run."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from slow_cases import slow_except

import vitkit
from vitkit.config import override
from vitkit.data.sources.digits import Digits
from vitkit.training import Interrupted, Run, RunFolder, launch, session, train
from vitkit.training.checkpointing import saving
from vitkit.training.events import read
from vitkit.training.loop import Training


class Killed(BaseException):
    """Ends a run without any cleanup, as `kill -9` does."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[[], Any]) -> None:
    """Calls `how` after step number `step`, before it is saved."""
    original = launch.Events.step

    def hooked(self: Any, number: int, *rest: Any) -> None:
        original(self, number, *rest)
        if number == step:
            how()

    monkeypatch.setattr(launch.Events, "step", hooked)


def final(folder: Path) -> dict[str, Any]:
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    return saved


def history(folder: Path) -> list[dict[str, Any]]:
    """Returns the steps and evaluations of the log without times and speeds."""
    events = [event for event in read(folder / "log.jsonl") if event["kind"] in ("step", "evaluation")]
    return [
        {key: value for key, value in event.items() if key not in ("time", "images_per_second", "memory_gb", "mfu")}
        for event in events
    ]


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.fixture(scope="module")
def trained(small_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "uninterrupted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "__len__", lambda self: 240)
        train(small_run(grad_accum_steps=2), folder)
    return folder


@pytest.fixture
def uninterrupted(trained: Path, tmp_path: Path) -> Path:
    """A copy of an uninterrupted run."""
    return shutil.copytree(trained, tmp_path / "uninterrupted")


EVERYTHING: dict[str, Any] = {
    "grad_accum_steps": 2,
    "ema": 0.9,
    "precision": "bfloat16",
    "augment__randaugment": {"layers": 2, "magnitude": 10.0},
    "augment__mixing": {"mixup": 0.5},
}


@pytest.fixture(scope="module")
def everything(small_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with every source of randomness, dropout included."""
    folder = tmp_path_factory.mktemp("everything") / "uninterrupted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "__len__", lambda self: 240)
        train(small_run(**EVERYTHING), folder)
    return folder


@pytest.mark.parametrize("step", slow_except(range(1, 12), 8))
def test_stopped_after_any_step_and_resumed(
    small_run: Callable[..., Run], tmp_path: Path, everything: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    run, formats = small_run(**EVERYTHING), ("auto", "sharded")
    again = 1 + (step + 4) % 11
    for number, stop in enumerate(sorted({step, again})):
        changes = {"hardware.checkpoint_format": formats[(step + number) % 2], "hardware.async_save": step % 3 == 0}
        with monkeypatch.context() as patch:
            kill_at(patch, stop, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted, match=f"SIGTERM after step {stop}") as stopped:
                train(override(run, changes), tmp_path / "run")
        assert stopped.value.exit_code == 143
        assert final(tmp_path / "run")["training"]["step"] == stop
    assert not (tmp_path / "run" / "report.html").exists()
    # Resumed with another number of workers, which changes no result.
    result = train(override(run, {"hardware.workers": 2 if step in (3, 7) else 0}), tmp_path / "run")
    assert_equal(final(tmp_path / "run"), final(everything))
    assert history(tmp_path / "run") == history(everything)
    assert result.score == max(event["top1.accuracy"] for event in history(everything) if event["kind"] == "evaluation")
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("step", slow_except([1, 3, 4, 6, 9, 12], 9))
def test_killed_after_any_step_and_resumed(
    small_run: Callable[..., Run], tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def kill() -> None:
        raise Killed

    run = small_run(grad_accum_steps=2)
    for at in (step, min(12, step + 2)):
        with monkeypatch.context() as patch:
            kill_at(patch, at, kill)
            with pytest.raises(Killed):
                train(run, tmp_path / "run")
    train(run, tmp_path / "run")
    assert_equal(final(tmp_path / "run"), final(uninterrupted))
    assert history(tmp_path / "run") == history(uninterrupted)
    kinds = [event["kind"] for event in read(tmp_path / "run" / "log.jsonl")]
    assert kinds.count("evaluation") == 3  # none is logged twice


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        EVERYTHING,
        {**EVERYTHING, "optimizer__name": "muon", "optimizer__layer_decay": 0.8},
        {"optimizer__name": "lion", "tuning__lora_rank": 2, "ema": 0.5},
        {"optimizer__name": "sgd", "hardware__activation_checkpointing": True},
        {"optimizer__name": "lamb", "model__init": "truncated"},
    ],
    ids=["everything", "muon", "lion, lora", "sgd, activation checkpointing", "lamb"],
)
def test_every_part_of_a_run_resumes(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    run = small_run(**changes)
    train(run, tmp_path / "uninterrupted")
    for step in (1, 5, 7, 11):
        with monkeypatch.context() as patch:
            kill_at(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted):
                train(run, tmp_path / "run")
    train(run, tmp_path / "run")
    assert_equal(final(tmp_path / "run"), final(tmp_path / "uninterrupted"))
    assert history(tmp_path / "run") == history(tmp_path / "uninterrupted")
    best = [vitkit.load(tmp_path / name / "best").model.state_dict() for name in ("run", "uninterrupted")]
    assert_equal(*best)


def test_a_completed_run_trains_nothing(
    small_run: Callable[..., Run], tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (uninterrupted / "best" / "model.safetensors").stat().st_mtime_ns

    def fail(self: Training, *_: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr("vitkit.training.loop.update", fail)
    assert train(small_run(grad_accum_steps=2), uninterrupted).folder == uninterrupted
    assert (uninterrupted / "best" / "model.safetensors").stat().st_mtime_ns == before


def test_another_run_is_rejected_and_nothing_changed(small_run: Callable[..., Run], uninterrupted: Path) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"contains another run, which differs in optimizer\.lr; choose another folder"
    ):
        train(small_run(grad_accum_steps=2, optimizer__lr=0.5), uninterrupted)
    with pytest.raises(ValueError, match="is not the config of a run"):
        train(small_run(), uninterrupted / "best")
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_rejected(small_run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="exists and is not a run folder"):
        train(small_run(), tmp_path)
    assert os.listdir(tmp_path) == ["letter.txt"]
    with pytest.raises(ValueError, match="exists and is not a run folder"):
        train(small_run(), tmp_path / "letter.txt")


def test_a_loss_that_is_not_finite_saves_and_names_the_batch(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session.training_batches

    def with_nan(*arguments: Any, consumed: int) -> Any:
        for number, batch in enumerate(original(*arguments, consumed=consumed)):
            if number == 6:
                batch.images[0] = float("nan")
            yield batch

    monkeypatch.setattr(session, "training_batches", with_nan)
    with pytest.raises(
        session.TrainingStopped, match=r"in step 6; no weights were updated\. The batch contains the images digit"
    ):
        train(small_run(), tmp_path / "run")
    assert final(tmp_path / "run")["training"]["step"] == 6
    stopped = read(tmp_path / "run" / "log.jsonl")[-1]
    assert stopped["kind"] == "stopped"
    assert "digit" in stopped["reason"]


def test_config_json_restores_the_run(small_run: Callable[..., Run], uninterrupted: Path) -> None:
    assert RunFolder(uninterrupted).run() == small_run(grad_accum_steps=2)
    text = json.loads((uninterrupted / "config.json").read_text())
    text["optimizer"]["speed"] = 1
    (uninterrupted / "config.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run: unknown key 'optimizer\.speed'"):
        RunFolder(uninterrupted).run()
