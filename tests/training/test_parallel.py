"""Two processes have the losses of one, stop together, and resume in one process; slow tests use torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import Job, ends, run_in_two

from vitkit import distributed
from vitkit.config import override
from vitkit.training import Run, RunFolder, train
from vitkit.training.checkpointing import saving
from vitkit.training.events import read
from vitkit.training.run import to_json

SCRIPT = Path(__file__).with_name("train_by_torchrun.py")


@pytest.fixture
def deterministic_run(small_run: Callable[..., Run]) -> Callable[..., Run]:
    """Without dropout, which differs between processes."""

    def make(**changes: Any) -> Run:
        no_dropout = {f"model__{name}": 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth")}
        # A larger learning rate would amplify rounding over twelve steps.
        return small_run(**{**no_dropout, "optimizer__lr": 1e-3, "ema": 0.9, **changes})

    return make


def torchrun(run: Run, folder: Path, *fault: str) -> "subprocess.CompletedProcess[str]":
    config = folder.with_suffix(".json")
    config.write_text(to_json(run))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(SCRIPT), str(config), str(folder), *fault],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read(folder / "log.jsonl") if event["kind"] == "step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    return saved["training"]["objective"]


def assert_close(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert type(value) is torch.Tensor
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-3)


@pytest.fixture
def single_process(deterministic_run: Callable[..., Run], tmp_path: Path) -> Path:
    train(deterministic_run(), tmp_path / "single_process")
    return tmp_path / "single_process"


@pytest.mark.slow
def test_lamb_uses_norms_of_full_tensors_under_fsdp(deterministic_run: Callable[..., Run], tmp_path: Path) -> None:
    run = deterministic_run(optimizer__name="lamb", model__init="truncated")
    train(run, tmp_path / "single_process")
    done = torchrun(override(run, {"hardware.parallel": "fsdp"}), tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "two", tmp_path / "single_process")


@pytest.mark.slow
def test_two_processes_stop_at_a_signal_and_one_process_resumes(
    deterministic_run: Callable[..., Run], tmp_path: Path, single_process: Path
) -> None:
    """As the slow test below, without torchrun, whose start takes longer than the run."""
    run = deterministic_run(hardware__parallel="ddp")
    run_in_two([Job(run, tmp_path / "two", "term", 7)], tmp_path / "jobs")
    first, second = ends(tmp_path / "two")
    assert first.error == second.error
    assert first.error.startswith("Interrupted: ")
    assert max(first.time, second.time) - second.signalled < 10.0
    saved = saving.load_newest(tmp_path / "two" / "checkpoints")
    assert saved is not None
    assert saved["training"]["step"] == 7
    train(override(run, {"hardware.parallel": "none"}), tmp_path / "two")
    assert_close(tmp_path / "two", single_process)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_signal_to_one_process_stops_both_and_one_process_resumes(
    deterministic_run: Callable[..., Run], tmp_path: Path, single_process: Path, kind: str
) -> None:
    run = deterministic_run(hardware__parallel=kind)
    done = torchrun(run, tmp_path / "two", "term", "7", "1")
    assert done.returncode != 0
    signalled = float((tmp_path / "two" / "signalled").read_text())
    for rank in (0, 1):
        code, ended = (tmp_path / "two" / f"exit-{rank}").read_text().split()
        assert code == "143"
        assert float(ended) - signalled < 10.0
    saved = saving.load_newest(tmp_path / "two" / "checkpoints")
    assert saved is not None
    assert saved["training"]["step"] == 7
    # One process resumes with the same samples in the same order.
    train(override(run, {"hardware.parallel": "none"}), tmp_path / "two")
    assert_close(tmp_path / "two", single_process)


def test_invalid_launches_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="fsdp needs at least two processes, but only one is running"),
        distributed.process_group("cpu", "fsdp"),
    ):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ValueError, match="2 processes were launched, but the run is not parallel"),
        distributed.process_group("cpu", "none"),
    ):
        pass
