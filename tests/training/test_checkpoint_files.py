"""Full checkpoints survive a kill at any point, a damaged file and a full disk."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from vitkit import atomic
from vitkit.training.checkpointing import files, saving


def content(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((100,), float(step)), "nested": {"names": ["a"], "none": None}}


def test_the_newest_is_loaded_and_old_ones_are_removed(tmp_path: Path) -> None:
    assert saving.load_newest(tmp_path / "none") is None
    for step in (1, 2, 10):
        files.save(tmp_path, step, content(step), keep=2)
    assert [path.name for path in files.list_checkpoints(tmp_path)] == ["step-00000002", "step-00000010"]
    loaded = saving.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 10
    assert torch.equal(loaded["weights"], content(10)["weights"])
    assert loaded["nested"] == content(10)["nested"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    files.save(tmp_path, 3, content(3), keep=2)
    files.save(tmp_path, 3, content(4), keep=2)
    loaded = saving.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 4
    assert len(files.list_checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "no file", "bad manifest", "empty"])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    files.save(tmp_path, 1, content(1), keep=2)
    path = files.save(tmp_path, 2, content(2), keep=2)
    file, manifest = path / "state.pt", path / "MANIFEST.json"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "bad manifest":
        manifest.write_text("{")
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "no file":
        file.unlink()
    else:
        file.unlink()
        manifest.unlink()
    loaded = saving.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1


class Killed(BaseException):
    pass


def test_a_kill_before_any_disk_operation_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the disk operations of a save, then ends a save before each of them in turn."""
    operations = [(os, "fsync"), (os, "open"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (torch, "save")]
    seen = 0
    limit = 10**9

    def counted(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen > limit:
                raise Killed
            return original(*arguments, **options)

        return call

    files.save(tmp_path, 1, content(1), keep=2)
    for owner, name in operations:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    files.save(tmp_path, 2, content(2), keep=2)
    total, newest = seen, 2
    assert total > 8
    for stop in range(total):
        seen, limit = 0, stop
        with pytest.raises(Killed):
            files.save(tmp_path, newest + 1, content(newest + 1), keep=2)
        limit = 10**9
        loaded = saving.load_newest(tmp_path)
        assert loaded is not None
        assert loaded["step"] in (newest, newest + 1)
        assert loaded["weights"].unique().tolist() == [float(loaded["step"])]
        newest = loaded["step"]
    files.save(tmp_path, newest + 1, content(newest + 1), keep=2)
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["step-", "step-"]


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.save(tmp_path, 1, content(1), keep=2)

    def full(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        files.save(tmp_path, 2, content(2), keep=2)
    loaded = saving.load_newest(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1


def test_keeping_one_checkpoint_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 1; it must be at least 2"):
        files.save(tmp_path, 1, content(1), keep=1)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    atomic.write_bytes(path, b"old")

    def killed(descriptor: int) -> None:
        raise Killed

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(Killed):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
