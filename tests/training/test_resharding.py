"""Full and sharded checkpoints of two processes: resumed by two with the same bits, by one, and by two from one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_resume import EVERYTHING, Killed, assert_equal, history, kill_at
from two_processes import Job, ends, run_in_two

from vitkit.config import override
from vitkit.data.sources.digits import Digits
from vitkit.training import Run, RunFolder, session, train
from vitkit.training.checkpointing import files, saving
from vitkit.training.events import read

# Nine runs in two processes take a minute; `test_parallel` runs two processes in the default tests.
pytestmark = pytest.mark.slow

NO_DROPOUT = {f"model__{name}": 0.0 for name in ("dropout", "attention_dropout", "stochastic_depth")}
SETTINGS: dict[str, dict[str, Any]] = {
    "ddp": {"hardware__parallel": "ddp"},
    "ddp, sharded": {"hardware__parallel": "ddp", "hardware__checkpoint_format": "sharded"},
    "fsdp": {"hardware__parallel": "fsdp", "hardware__async_save": True},
    "fsdp, full": {"hardware__parallel": "fsdp", "hardware__checkpoint_format": "full", "hardware__async_save": True},
}


@pytest.fixture(scope="module")
def deterministic(small_run: Callable[..., Run]) -> Callable[..., Run]:
    """Without dropout, which differs between processes, and at a learning rate that does not amplify rounding."""

    def make(**changes: Any) -> Run:
        return small_run(**{**NO_DROPOUT, "optimizer__lr": 1e-3, "ema": 0.9, "hardware__save_every": 3, **changes})

    return make


@pytest.fixture(scope="module")
def two(
    deterministic: Callable[..., Run], small_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All runs of this file, started once."""
    home = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "__len__", lambda self: 240)
        train(deterministic(), home / "one")
        kill_at(patch, 5, lambda: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(deterministic(), home / "from one")
    fsdp, ddp = SETTINGS["fsdp"], SETTINGS["ddp"]
    jobs = [
        Job(deterministic(**fsdp, grad_accum_steps=2), home / "fsdp"),
        Job(deterministic(**ddp, grad_accum_steps=2), home / "ddp"),
        Job(deterministic(**fsdp), home / "to one", "term", 7),
        Job(deterministic(**fsdp), home / "from one"),
        Job(deterministic(**fsdp), home / "fsdp and ddp", "term", 4),
        Job(deterministic(**ddp), home / "fsdp and ddp", "term", 8),
        Job(deterministic(**fsdp), home / "fsdp and ddp"),
        Job(deterministic(**fsdp), home / "nan", "nan", 8),
        Job(deterministic(**ddp, optimizer__lr=0.5), home / "fsdp"),
    ]
    run_in_two([*jobs, *bitwise(small_run(**EVERYTHING, **fsdp), home, (3, 8))], home / "jobs")
    return home


def bitwise(run: Run, home: Path, steps: tuple[int, ...]) -> list[Job]:
    """Returns an uninterrupted run, and the same run stopped after each of `steps` and resumed."""
    stops = [(Job(run, home / f"bits {step}", "term", step), Job(run, home / f"bits {step}")) for step in steps]
    return [Job(run, home / "bits"), *(job for pair in stops for job in pair)]


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read(folder / "log.jsonl") if event["kind"] == "step"]


def final(folder: Path) -> dict[str, Any]:
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    return saved


def format_of(folder: Path) -> str:
    newest = files.newest_complete(RunFolder(folder).checkpoints)
    assert newest is not None
    return "full" if (newest / "state.pt").exists() else "sharded"


def assert_close(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    mine, theirs = final(one)["training"]["objective"], final(other)["training"]["objective"]
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("setting", "expected"), [("ddp", "full"), ("fsdp", "sharded")])
def test_two_processes_have_the_losses_of_one(two: Path, setting: str, expected: str) -> None:
    assert len(losses(two / setting)) == 12
    assert_close(two / setting, two / "one")
    assert format_of(two / setting) == expected
    assert (two / setting / "report.html").exists()
    evaluated = [[e["top1.loss"] for e in read(two / f / "log.jsonl") if "top1.loss" in e] for f in (setting, "one")]
    assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-4)


def assert_same_bits(home: Path, expected: str, stops: int) -> None:
    stopped = [folder for folder in home.glob("bits *") if folder.is_dir()]
    assert len(stopped) == stops
    for folder in stopped:
        assert format_of(folder) == expected
        assert_equal(final(folder), final(home / "bits"))
        assert history(folder) == history(home / "bits")


def test_two_processes_resume_with_the_same_bits(two: Path) -> None:
    assert_same_bits(two, "sharded", 2)


@pytest.mark.parametrize(("setting", "expected"), [*zip(SETTINGS, ("full", "sharded", "sharded", "full"), strict=True)])
def test_two_processes_resume_with_the_same_bits_in_every_setting(
    small_run: Callable[..., Run], tmp_path: Path, setting: str, expected: str
) -> None:
    run_in_two(bitwise(small_run(**EVERYTHING, **SETTINGS[setting]), tmp_path, (1, 4, 6, 11)), tmp_path / "jobs")
    assert_same_bits(tmp_path, expected, 4)


def test_all_processes_reject_what_rank_0_rejects(two: Path) -> None:
    for end in ends(two / "fsdp"):
        assert end.error.startswith("ValueError: ")
        assert "contains another run, which differs in grad_accum_steps, optimizer.lr" in end.error


def test_one_process_resumes_from_two_shards_with_the_same_images(
    two: Path, deterministic: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(two / "to one", tmp_path / "one")
    assert format_of(tmp_path / "one") == "sharded"
    assert final(tmp_path / "one")["training"]["step"] == 7
    keys: list[list[str]] = []
    original = session.training_batches

    def record_keys(*arguments: Any, consumed: int) -> Any:
        for batch in original(*arguments, consumed=consumed):
            keys.append(list(batch.keys))
            yield batch

    monkeypatch.setattr(session, "training_batches", record_keys)
    train(override(deterministic(), {"hardware.save_every": 100}), tmp_path / "one")
    assert format_of(tmp_path / "one") == "full"
    assert_close(tmp_path / "one", two / "one")
    first, second = (end.keys for end in ends(two / "ddp"))
    assert keys == [mine + theirs for mine, theirs in zip(first, second, strict=True)][7:]


def test_two_processes_resume_from_the_full_checkpoint_of_one(two: Path) -> None:
    assert format_of(two / "from one") == "sharded"
    assert_close(two / "from one", two / "one")
    first, second = (end.keys for end in ends(two / "ddp"))
    again = [end.keys for end in ends(two / "from one")]
    assert again == [first[3:], second[3:]]  # killed after step 5, last saved after step 3


def test_full_and_sharded_checkpoints_in_one_run(two: Path) -> None:
    assert_close(two / "fsdp and ddp", two / "one")
    remaining = files.list_checkpoints(RunFolder(two / "fsdp and ddp").checkpoints)
    # A checkpoint is also saved before each evaluation, here after 5, 10 and 12 steps.
    assert [path.name for path in remaining] == ["step-00000010", "step-00000012"]


def test_a_signal_to_one_process_saves_and_stops_both(two: Path, deterministic: Callable[..., Run]) -> None:
    first, second = ends(two / "to one")
    for end in (first, second):
        assert end.error.startswith("Interrupted: stopped by SIGTERM after step 7")
        assert end.time - second.signalled < 10.0


def test_a_nan_in_one_process_stops_both_before_the_update(two: Path) -> None:
    for end in ends(two / "nan"):
        assert "TrainingStopped" in end.error
        assert "in step 8; no weights were updated" in end.error
        assert end.error.partition("The batch contains the images ")[2].count("digit") == 28
    saved = final(two / "nan")["training"]
    assert saved["step"] == 8
    assert all(torch.isfinite(value).all() for value in saved["objective"].values())
    assert losses(two / "nan") == pytest.approx(losses(two / "one")[:8], abs=1e-5)


def test_shards_have_similar_sizes(two: Path) -> None:
    newest = files.newest_complete(RunFolder(two / "fsdp").checkpoints)
    assert newest is not None
    sizes = [path.stat().st_size for path in sorted(newest.glob("shard-*.safetensors"))]
    assert len(sizes) == 2
    assert max(sizes) < 0.6 * sum(sizes)
    assert not list(newest.parent.glob("*.tmp"))
