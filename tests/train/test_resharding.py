"""States of two processes, whole and sharded: taken up by two again with the same bits, by one, and one's by two."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import EVERYTHING, Killed, assert_equal, kill_at, story
from two_processes import Job, ends, in_two

from vitkit.config import override
from vitkit.data.sources.digits import Digits
from vitkit.train import Run, RunFolder, launch, train
from vitkit.train.checkpointing import files, saving
from vitkit.train.events import read

# Two processes for each of nine runs take a minute; `test_parallel` starts some in every run of the tests.
pytestmark = pytest.mark.slow

CALM = {f"model__{name}": 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth")}
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {"hardware__parallel": "ddp"},
    "ddp, sharded": {"hardware__parallel": "ddp", "hardware__checkpoint_format": "sharded"},
    "fsdp": {"hardware__parallel": "fsdp", "hardware__async_save": True},
    "fsdp, full": {"hardware__parallel": "fsdp", "hardware__checkpoint_format": "full", "hardware__async_save": True},
}


@pytest.fixture(scope="module")
def calm(small_run: Callable[..., Run]) -> Callable[..., Run]:
    """Without what each process draws for itself, so that two compare with one, at a rate that grows no rounding."""

    def make(**changes: Any) -> Run:
        return small_run(**{**CALM, "optimizer__lr": 1e-3, "ema": 0.9, "hardware__save_every": 3, **changes})

    return make


@pytest.fixture(scope="module")
def two(calm: Callable[..., Run], small_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One launch for all tests of this file."""
    home = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "__len__", lambda self: 240)
        train(calm(), home / "one")
        kill_at(patch, 5, lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(calm(), home / "from one")
    fsdp, ddp = WAYS["fsdp"], WAYS["ddp"]
    jobs = [
        Job(calm(**fsdp, grad_accum_steps=2), home / "fsdp"),
        Job(calm(**ddp, grad_accum_steps=2), home / "ddp"),
        Job(calm(**fsdp), home / "to one", "term", 7),
        Job(calm(**fsdp), home / "from one"),
        Job(calm(**fsdp), home / "fsdp and ddp", "term", 4),
        Job(calm(**ddp), home / "fsdp and ddp", "term", 8),
        Job(calm(**fsdp), home / "fsdp and ddp"),
        Job(calm(**fsdp), home / "nan", "nan", 8),
        Job(calm(**ddp, optimizer__lr=0.5), home / "fsdp"),
    ]
    in_two([*jobs, *bitwise(small_run(**EVERYTHING, **fsdp), home, (3, 8))], home / "jobs")
    return home


def bitwise(run: Run, home: Path, steps: tuple[int, ...]) -> list[Job]:
    """A run that is not stopped, and the same stopped after each of some steps and gone on with."""
    stops = [(Job(run, home / f"bits {step}", "term", step), Job(run, home / f"bits {step}")) for step in steps]
    return [Job(run, home / "bits"), *(job for pair in stops for job in pair)]


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read(folder / "log.jsonl") if event["kind"] == "step"]


def final(folder: Path) -> dict[str, Any]:
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    return saved


def kind(folder: Path) -> str:
    newest = files.newest_complete(RunFolder(folder).checkpoints)
    assert newest is not None
    return "full" if (newest / "state.pt").exists() else "sharded"


def assert_close(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    mine, theirs = final(one)["training"]["objective"], final(other)["training"]["objective"]
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("way", "form"), [("ddp", "full"), ("fsdp", "sharded")])
def test_two_have_the_losses_of_one(two: Path, way: str, form: str) -> None:
    assert len(losses(two / way)) == 12
    assert_close(two / way, two / "one")
    assert kind(two / way) == form
    assert (two / way / "report.html").exists()
    judged = [[e["top1.loss"] for e in read(two / f / "log.jsonl") if "top1.loss" in e] for f in (way, "one")]
    assert judged[0] == pytest.approx(judged[1], abs=1e-4)


def assert_same_bits(home: Path, form: str, stops: int) -> None:
    stopped = [folder for folder in home.glob("bits *") if folder.is_dir()]
    assert len(stopped) == stops
    for folder in stopped:
        assert kind(folder) == form
        assert_equal(final(folder), final(home / "bits"))
        assert story(folder) == story(home / "bits")


def test_two_go_on_with_the_same_bits(two: Path) -> None:
    assert_same_bits(two, "sharded", 2)


@pytest.mark.parametrize(("way", "form"), [*zip(WAYS, ("full", "sharded", "sharded", "full"), strict=True)])
def test_two_go_on_with_the_same_bits_in_every_way(
    small_run: Callable[..., Run], tmp_path: Path, way: str, form: str
) -> None:
    in_two(bitwise(small_run(**EVERYTHING, **WAYS[way]), tmp_path, (1, 4, 6, 11)), tmp_path / "jobs")
    assert_same_bits(tmp_path, form, 4)


def test_what_the_main_process_refuses_all_refuse(two: Path) -> None:
    for end in ends(two / "fsdp"):
        assert end.error.startswith("ValueError: ")
        assert "contains another run, which differs in grad_accum_steps, optimizer.lr" in end.error


def test_shards_of_two_go_on_in_one_on_the_same_pictures(
    two: Path, calm: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(two / "to one", tmp_path / "one")
    assert kind(tmp_path / "one") == "sharded"
    assert final(tmp_path / "one")["training"]["step"] == 7
    keys: list[list[str]] = []
    original = launch.training_batches

    def noted(*arguments: Any, consumed: int) -> Any:
        for batch in original(*arguments, consumed=consumed):
            keys.append(list(batch.keys))
            yield batch

    monkeypatch.setattr(launch, "training_batches", noted)
    train(override(calm(), {"hardware.save_every": 100}), tmp_path / "one")
    assert kind(tmp_path / "one") == "full"
    assert_close(tmp_path / "one", two / "one")
    first, second = (end.keys for end in ends(two / "ddp"))
    assert keys == [mine + theirs for mine, theirs in zip(first, second, strict=True)][7:]


def test_ones_state_goes_on_in_two_shards(two: Path) -> None:
    assert kind(two / "from one") == "sharded"
    assert_close(two / "from one", two / "one")
    first, second = (end.keys for end in ends(two / "ddp"))
    again = [end.keys for end in ends(two / "from one")]
    assert again == [first[3:], second[3:]]  # killed after step 5, saved after step 3


def test_whole_and_sharded_states_follow_each_other(two: Path) -> None:
    assert_close(two / "fsdp and ddp", two / "one")
    kept = files.list_checkpoints(RunFolder(two / "fsdp and ddp").checkpoints)
    assert [path.name for path in kept] == ["step-00000009", "step-00000012"]


def test_a_signal_to_one_of_two_ends_both_saved(two: Path, calm: Callable[..., Run]) -> None:
    first, second = ends(two / "to one")
    for end in (first, second):
        assert end.error.startswith("Interrupted: stopped by SIGTERM after step 7")
        assert end.time - second.told < 10.0


def test_a_broken_number_in_one_stops_both_before_the_update(two: Path) -> None:
    for end in ends(two / "nan"):
        assert "TrainingStopped" in end.error
        assert "in step 8; nothing was updated" in end.error
        assert end.error.partition("The batch: ")[2].count("digit") == 28
    saved = final(two / "nan")["training"]
    assert saved["step"] == 8
    assert all(torch.isfinite(value).all() for value in saved["objective"].values())
    assert losses(two / "nan") == pytest.approx(losses(two / "one")[:8], abs=1e-5)


def test_shards_are_shared_out(two: Path) -> None:
    newest = files.newest_complete(RunFolder(two / "fsdp").checkpoints)
    assert newest is not None
    sizes = [path.stat().st_size for path in sorted(newest.glob("shard-*.safetensors"))]
    assert len(sizes) == 2
    assert max(sizes) < 0.6 * sum(sizes)
    assert not list(newest.parent.glob("*.tmp"))
