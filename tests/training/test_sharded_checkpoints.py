"""Sharded checkpoints in one process: round trips, damaged and hostile files, and saving in the background."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import assert_equal

from vitkit.training.checkpointing import _storage, files, saving, sharded
from vitkit.training.checkpointing.saving import CheckpointNotSaved, CheckpointSaver, copy_to_cpu
from vitkit.training.run import Hardware


def content(step: int) -> dict[str, Any]:
    weights = torch.full((6, 5), float(step))
    numbers: dict[str, Any] = {
        f"{kind}": torch.arange(3).to(kind) for kind in (torch.bfloat16, torch.int64, torch.bool)
    }
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": weights + 1}, 12: {"empty": torch.zeros(0, 4)}}
    groups = [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "fused": None, "params": [0, 12]}]
    # A tensor under two names, and views of it.
    tensors = {"weights": weights, "tied": weights, "row": weights[2], "column": weights[:, 1]}
    return {
        "training": {"step": step, "objective": tensors | numbers, "optimizer": {"state": moments, "groups": groups}},
        "score": float("-inf"),
    }


def newest(folder: Path) -> dict[str, Any]:
    loaded = saving.load_newest(folder)
    assert loaded is not None
    return loaded


def test_all_content_is_restored(tmp_path: Path) -> None:
    sharded.save(tmp_path, 1, content(1), keep=2)
    sharded.save(tmp_path, 2, content(2), keep=2)
    sharded.save(tmp_path, 2, content(2), keep=2)  # again
    files.save(tmp_path, 3, content(3), keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000002", "step-00000003"]
    assert_equal(newest(tmp_path), content(3))
    (tmp_path / "step-00000003" / "state.pt").unlink()
    assert_equal(newest(tmp_path), content(2))
    assert sorted(os.listdir(tmp_path / "step-00000002")) == ["MANIFEST.json", "shard-00000.safetensors"]


def test_unsupported_content_is_named() -> None:
    for value, message in (
        ({1: torch.zeros(1), "1": torch.zeros(1)}, "two tensors with the key 'a/1'"),
        (object(), "the value at 'a' is of type object"),
    ):
        with pytest.raises(ValueError, match=message):
            _storage.split_tensors({"a": value})
    with pytest.raises(ValueError, match="an invalid entry"):
        _storage.join_tensors({"a": {"tensor": "gone"}}, {})


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "no shard", "manifest flip", "manifest cut", "other step", "no manifest"]
)
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    sharded.save(tmp_path, 1, content(1), keep=2)
    sharded.save(tmp_path, 2, content(2), keep=2)
    path = tmp_path / "step-00000002"
    file = path / ("MANIFEST.json" if "manifest" in damage else "shard-00000.safetensors")
    data = bytearray(file.read_bytes())
    if damage.startswith("no"):
        file.unlink()
    elif damage == "other step":
        path.rename(tmp_path / "step-00000005")
    elif damage.endswith("cut"):
        file.write_bytes(data[:-10])
    elif damage == "manifest flip":
        # A learning rate with another digit is still JSON.
        file.write_bytes(bytes(data).replace(b"0.30000000000000004", b"0.30000000000000014"))
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert_equal(newest(tmp_path), content(1))


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("executed",)


def with_seal(manifest: Any) -> bytes:
    """Returns a changed manifest with a valid hash, as an attacker would write it."""
    manifest.pop("seal", None)
    text = json.dumps(manifest, sort_keys=True)
    return json.dumps(manifest | {"seal": hashlib.sha256(text.encode()).hexdigest()}).encode()


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a dtype that is a function": lambda manifest: manifest["tensors"][NAME].update(dtype="load"),
    "an unknown dtype": lambda manifest: manifest["tensors"][NAME].update(dtype="float33"),
    "a dtype that is a list": lambda manifest: manifest["tensors"][NAME].update(dtype=[]),
    "a shape beyond memory": lambda manifest: manifest["tensors"][NAME].update(shape=[1 << 40, 5]),
    "shards beyond memory": lambda manifest: manifest["tensors"][NAME].update(
        shape=[1 << 40], chunks=[[SHARD, [0], [1 << 40]]]
    ),
    "a negative shape": lambda manifest: manifest["tensors"][NAME].update(shape=[-6, -5]),
    "a shard at a negative offset": lambda manifest: manifest["tensors"][NAME]["chunks"][0].__setitem__(1, [-6, 0]),
    "a shard of another file": lambda manifest: manifest["tensors"][NAME]["chunks"][0].__setitem__(0, "/etc/passwd"),
    "a shard of another shape": lambda manifest: manifest["tensors"][NAME].update(
        shape=[5, 6], chunks=[[SHARD, [0, 0], [5, 6]]]
    ),
    "another dtype": lambda manifest: manifest["tensors"][NAME].update(dtype="int32"),
    "no tensors": lambda manifest: manifest.pop("tensors"),
    "invalid content": lambda manifest: manifest.update(content={"a": {"__reduce__": ["os.mkdir", "executed"]}}),
}
NAME, SHARD = "training/objective/weights", "shard-00000.safetensors"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_only_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    sharded.save(tmp_path / "checkpoints", 1, content(1), keep=2)
    file = tmp_path / "checkpoints" / "step-00000001" / "MANIFEST.json"
    manifest = json.loads(file.read_bytes())
    HOSTILE[name](manifest)
    file.write_bytes(with_seal(manifest))
    with pytest.raises(ValueError, match=r"\S"):
        saving.load_newest(tmp_path / "checkpoints")
    assert os.listdir(tmp_path) == ["checkpoints"]


@pytest.mark.parametrize("where", ["MANIFEST.json", "shard-00000.safetensors", ".metadata", "state.pt"])
def test_a_pickle_in_any_file_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    sharded.save(tmp_path / "checkpoints", 1, content(1), keep=2)
    path = tmp_path / "checkpoints" / "step-00000001"
    (path / where).write_bytes(pickle.dumps(Bomb(), protocol=2))
    manifest = json.loads((path / "MANIFEST.json").read_bytes()) if where != "MANIFEST.json" else None
    if manifest is not None:
        # With matching digests, so that only the way of reading protects against the pickle.
        names = {*manifest["files"], where}
        manifest["files"] = {name: files.flush(path / name) for name in names}
        (path / "MANIFEST.json").write_bytes(with_seal(manifest))
    if where in (".metadata", "MANIFEST.json"):
        assert_equal(saving.load_newest(tmp_path / "checkpoints"), content(1) if where == ".metadata" else None)
    else:
        with pytest.raises((ValueError, OSError, pickle.UnpicklingError)):
            saving.load_newest(tmp_path / "checkpoints")
    assert os.listdir(tmp_path) == ["checkpoints"]
    # The pickle would be executed by pickle.loads.
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize("name", ["../state.pt", "..", "/etc/passwd", "a/b"])
def test_a_manifest_names_only_its_own_files(tmp_path: Path, name: str) -> None:
    files.save(tmp_path, 1, {"a": 1}, keep=2)
    file = tmp_path / "step-00000001" / "MANIFEST.json"
    file.write_bytes(with_seal({"step": 1, "files": {name: {}}}))
    assert saving.load_newest(tmp_path) is None


def test_a_deeply_nested_manifest_is_skipped(tmp_path: Path) -> None:
    files.save(tmp_path, 1, {"a": 1}, keep=2)
    (tmp_path / "step-00000001" / "MANIFEST.json").write_text("[" * 100_000)
    assert saving.load_newest(tmp_path) is None


def test_checkpoints_of_the_first_format_are_loaded(tmp_path: Path) -> None:
    path = files.save(tmp_path, 7, {"a": 1}, keep=2)
    old = {"step": 7, **files.flush(path / "state.pt")}
    (path / "MANIFEST.json").write_text(json.dumps(old))
    assert saving.load_newest(tmp_path) == {"a": 1}
    (path / "MANIFEST.json").write_text(json.dumps(old | {"size": 1}))
    assert saving.load_newest(tmp_path) is None


KINDS = {"full": Hardware(async_save=True), "sharded": Hardware(async_save=True, checkpoint_format="sharded")}


@pytest.mark.parametrize("kind", KINDS)
def test_an_asynchronous_save_copies_its_content(tmp_path: Path, kind: str) -> None:
    with CheckpointSaver(tmp_path, KINDS[kind]) as saver:
        for step in (1, 2, 3):
            changing = content(step)
            saver.save(step, changing)
            changing["training"]["objective"]["weights"].fill_(-1.0)  # the next update
            changing["training"]["optimizer"]["state"][0]["exp_avg"].zero_()
    assert_equal(newest(tmp_path), content(3))
    assert len(files.list_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_asynchronous_save_raises_at_the_next_save_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with CheckpointSaver(tmp_path, KINDS[kind]) as saver:
        saver.save(1, content(1))
        saver.wait()
        monkeypatch.setattr(files, "publish", full)
        saver.save(2, content(2))
        with pytest.raises(
            CheckpointNotSaved, match=r"checkpoint of step 2 .* No space left on device; .* from 'step-00000001'"
        ):
            saver.save(3, content(3))
    with (
        pytest.raises(CheckpointNotSaved, match="checkpoint of step 4"),
        CheckpointSaver(tmp_path, KINDS[kind]) as saver,
    ):
        saver.save(4, content(4))
    with pytest.raises(KeyError) as other, CheckpointSaver(tmp_path, KINDS[kind]) as saver:  # noqa: PT012 - the end of a context
        saver.save(5, content(5))
        raise KeyError
    assert "checkpoint of step 5" in other.value.__notes__[0]
    with (
        pytest.raises(CheckpointNotSaved, match="checkpoint of step 6"),
        CheckpointSaver(tmp_path, KINDS[kind]) as saver,
    ):
        saver.save(6, content(6), last=True)
    monkeypatch.undo()
    assert_equal(newest(tmp_path), content(1))


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_copy_shares_no_memory() -> None:
    one = content(1)
    other = copy_to_cpu(one)
    assert_equal(other, one)
    one["training"]["objective"]["weights"].zero_()
    assert_equal(other, content(1))


def test_an_invalid_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the manifest of the checkpoint .* is invalid"):
        _storage.Reader(tmp_path, {"step": 1, "files": {}, "tensors": {"a": {}}})
