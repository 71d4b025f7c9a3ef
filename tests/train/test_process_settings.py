"""Training changes settings of the whole process only where the caller, or a command, asks for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitkit import cli, memory
from vitkit.train import Run, events, train


def test_training_changes_no_setting_that_nobody_asked_for(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*values: object) -> None:
        pytest.fail(f"a setting of the whole process was changed: {values}")

    monkeypatch.setattr(torch, "set_num_threads", changed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", changed)
    monkeypatch.setattr(memory, "kept", changed)
    train(small_run(steps=1, schedule__warmup=0, hardware__threads=None), tmp_path / "run")


def test_the_threads_of_a_run_are_for_the_run_only(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    monkeypatch.setattr(events.Events, "step", lambda *_: seen.append(torch.get_num_threads()))
    train(small_run(steps=1, schedule__warmup=0, hardware__threads=before + 1), tmp_path / "run")
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("command", ["train", "finetune", "demo"])
def test_the_commands_that_train_keep_freed_memory(
    command: str, small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entered(Exception):  # noqa: N818 - it is no error
        """What stops the command where the setting is made."""

    def kept() -> None:
        raise Entered

    monkeypatch.setattr(memory, "kept", kept)
    monkeypatch.setattr("vitkit.train.finetune.finetune", lambda *_, **__: small_run())
    out = ["--out", str(tmp_path / "run")]
    words = {
        "train": ["digits.tiny", "--set", "hardware.device=cpu", *out],
        "finetune": ["vit", "--data", "digits", *out],
        "demo": out,
    }
    with pytest.raises(Entered):
        cli.main([command, *words[command]])
