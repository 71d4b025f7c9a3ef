"""A run that is rejected or fails before its first step leaves its folder as it was, and the corrected one runs."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from slow_cases import slow_except

from vitkit.cli import main
from vitkit.training import Run, RunFolder, TrainingStopped, launch, loop, session, train
from vitkit.training.undo import undone


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the bytes of files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def fails(error: BaseException) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    return raises


#: What fails after the folder was created, and how.
FAILURES: list[tuple[object, str, BaseException]] = [
    (launch, "open_loggers", ImportError("no module named wandb")),
    (launch, "peak", OSError(28, "No space left on device")),
    (launch, "CheckpointSaver", OSError(13, "Permission denied")),
    (session, "training_batches", ValueError("the shard is damaged")),
    (session.TrainingSession, "resume", KeyboardInterrupt()),
    (session, "plan_lines", BrokenPipeError(32, "Broken pipe")),
    (loop, "update", MemoryError()),
    (loop, "update", RuntimeError("an error of a kernel")),
    (loop, "update", TrainingStopped("the loss is not finite in step 0")),
]


CASES = [(number, earlier) for number in range(len(FAILURES)) for earlier in ("none", "empty", "a rejected run")]


@pytest.mark.parametrize("case", slow_except(CASES, (0, "none"), (6, "empty"), (8, "a rejected run")))
def test_a_failure_before_the_first_step_leaves_the_folder_as_it_was(
    small_run: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[int, str],
) -> None:
    (where, name, error), earlier = FAILURES[case[0]], case[1]
    folder = tmp_path / "runs" / "deep" / "run"
    if earlier != "none":
        folder.mkdir(parents=True)
    if earlier == "a rejected run":  # what a killed process may leave, and a file of somebody else
        RunFolder(folder).save(small_run(seed=7))
        (folder / "log.jsonl").write_text('{"kind": "start", "step": 0, "time": 1.0}\n')
        (folder / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails(error))
        with pytest.raises((type(error), TrainingStopped)):
            train(small_run(), folder)
    assert contents(tmp_path) == before
    result = train(small_run(steps=1, schedule__warmup=0, evaluate_every=1), folder)
    assert result.step == 1
    if earlier == "a rejected run":
        assert (folder / "notes.txt").read_text() == "mine"
        assert RunFolder(folder).run().seed == 0


def test_a_run_with_steps_keeps_its_folder(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = loop.update

    def stops(training: Any, batch: Any) -> Any:
        if training.step == 1:
            raise RuntimeError("an error of a kernel")
        return update(training, batch)

    monkeypatch.setattr(loop, "update", stops)
    with pytest.raises(RuntimeError, match="an error of a kernel"):
        train(small_run(), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ValueError, match="contains another run, which differs in seed"):
        train(small_run(seed=5), tmp_path / "run")


def test_only_what_is_new_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept.txt").write_text("kept")
    (tmp_path / "config").write_text("old")
    before = contents(tmp_path)
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "file").write_text("of another")

    def fail_in(folder: Path, started: bool) -> None:
        with undone(folder, lambda: started, (tmp_path / "config",)):
            (folder / "new").mkdir(parents=True)
            (folder / "new" / "file").touch()
            (folder / "link").symlink_to(target)
            (tmp_path / "config").write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail_in(tmp_path / "old", started=False)
    assert (target / "file").read_text() == "of another"  # a link is removed, not what it leads to
    (target / "file").unlink()
    target.rmdir()
    assert contents(tmp_path) == before
    with pytest.raises(KeyError):
        fail_in(tmp_path / "a" / "b", started=True)
    assert (tmp_path / "a" / "b" / "new" / "file").is_file()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, small_run: Callable[..., Run]) -> Path:
    """Folders of images, of which some are no data set, a model, and files that are no folder."""
    home = tmp_path_factory.mktemp("home")
    random = np.random.default_rng(0)
    for label in ("ant", "bee"):
        (home / "photos" / label).mkdir(parents=True)
        (home / "broken" / label).mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "photos" / label / f"{number}.png")
            (home / "broken" / label / f"{number}.png").write_bytes(b"no image")
    (home / "no classes").mkdir()
    (home / "file").write_text("a file")
    start = small_run(steps=1, schedule__warmup=0, data__source=f"folder:{home / 'photos'}", model__num_classes=2)
    train(start, home / "start")
    return home


RECIPE = ["train", "digits.tiny", "--set", "model.depth=1", "model.width=16", "model.num_heads=2", "batch_size=8"]
RECIPE += ["hardware.device=cpu", "schedule.warmup=0", "precision=float32"]
#: Arguments that are rejected, by what is wrong with them.
REFUSED: dict[str, list[str]] = {
    "no such data": ["data.source=folder:{home}/nowhere"],
    "unreadable data": ["data.source=folder:{home}/broken", "model.num_classes=2"],
    "no classes": ["data.source=folder:{home}/no classes"],
    "too few classes": ["model.num_classes=3"],
    "unknown option": ["optimiser.lr=1"],
    "bad value": ["batch_size=-1"],
    "too large batch": ["batch_size=100000000000"],
    "wrong device": ["hardware.device=cuda:99"],
    "unknown device": ["hardware.device=abacus"],
    "no such checkpoint": ["init_from={home}/nowhere"],
    "other architecture": ["init_from={home}/start/best"],
    "unknown evaluator": ["evaluators=[\"top2\"]"],
    "unknown metric": ["metric=top1.beauty"],
    "unknown logger": ["hardware.loggers=[\"diary\"]"],
    "warm-up of the whole run": ["schedule.warmup=3"],
    "several lengths": ["minutes=3"],
    "too few minutes": ["steps=none", "minutes=1e-6"],
    "patch size": ["model.patch_size=[3, 3]"],
    "wrong mean": ["processor.mean=[0.1, 0.1]"],
    "nothing to train": ["tuning.freeze=[\"*\"]"],
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_rejected_command_leaves_no_folder_and_the_corrected_one_runs(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    out = tmp_path / "runs" / "one"
    command = [*RECIPE, "steps=2", "--out", str(out)]
    wrong = [each.format(home=home) for each in REFUSED[case]]
    at = command.index("steps=2")
    code = main([*command[:at], *([] if "steps=none" in wrong else ["steps=2"]), *wrong, *command[at + 1 :]])
    error = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in error
    assert os.listdir(tmp_path) == [], error
    if case in ("no such data", "wrong device"):  # the corrected command is the same one for all cases
        assert main(command) == 0
        assert json.loads((out / "config.json").read_text())["steps"] == 2


@pytest.mark.parametrize("place", ["file/run", "photos"])
def test_a_folder_that_cannot_be_written_is_rejected_before_the_data_are_read(
    small_run: Callable[..., Run], home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    before = contents(home)
    monkeypatch.setattr(launch, "open_data", None)
    with pytest.raises(ValueError, match=r"is not a folder|is not a run folder"):
        train(small_run(), home / place)
    assert contents(home) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is writable for root")
def test_a_folder_without_permission_is_rejected(small_run: Callable[..., Run], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="is not writable"):
        train(small_run(), tmp_path / "run")
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_a_trial_fails_before_anything_is_created(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "update", fails(torch.OutOfMemoryError("out of memory")))
    created: list[str] = []
    monkeypatch.setattr(RunFolder, "create", lambda self, run: created.append(str(self.path)))
    with pytest.raises(TrainingStopped, match="set a smaller batch_size"):
        train(small_run(), tmp_path / "run", console=Console(file=io.StringIO()))
    assert not created
