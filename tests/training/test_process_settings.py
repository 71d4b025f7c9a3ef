"""Training changes process-wide settings only on request, and restores them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vitkit import cli, memory
from vitkit.training import Run, events, train


def test_training_changes_no_setting_by_default(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(*values: object) -> None:
        pytest.fail(f"a process-wide setting was changed: {values}")

    monkeypatch.setattr(torch, "set_num_threads", changed)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", changed)
    monkeypatch.setattr(memory, "kept", changed)
    train(small_run(steps=1, schedule__warmup=0, hardware__threads=None), tmp_path / "run")


def test_the_number_of_threads_is_restored(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One thread for the run, because more of them wait actively on a busy machine.
    torch.set_num_threads(2)
    seen: list[int] = []
    monkeypatch.setattr(events.Events, "step", lambda *_: seen.append(torch.get_num_threads()))
    try:
        train(small_run(steps=1, schedule__warmup=0, hardware__threads=1), tmp_path / "run")
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("command", ["train", "finetune", "demo"])
def test_training_commands_keep_freed_memory(
    command: str, small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entered(Exception):  # noqa: N818 - not an error
        """Ends the command when the setting is applied."""

    def kept() -> None:
        raise Entered

    monkeypatch.setattr(memory, "kept", kept)
    monkeypatch.setattr("vitkit.training.finetune.finetune", lambda *_, **__: small_run())
    out = ["--out", str(tmp_path / "run")]
    arguments = {
        "train": ["digits.tiny", "--set", "hardware.device=cpu", *out],
        "finetune": ["vit", "--data", "digits", *out],
        "demo": out,
    }
    with pytest.raises(Entered):
        cli.main([command, *arguments[command]])
