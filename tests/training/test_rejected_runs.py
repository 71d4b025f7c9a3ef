"""Invalid runs are rejected with one line before a file is written; a full disk leaves the earlier checkpoint."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vitkit
from vitkit.data.augment import Augment
from vitkit.data.augment.mixing import Mixing
from vitkit.training import Run, RunFolder, train
from vitkit.training.checkpointing import saving
from vitkit.training.run import to_json
from vitkit.training.setup import initial_model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "float16 training needs a GPU"),
        ({"hardware__loggers": ["tensorbord"]}, "unknown logger 'tensorbord'"),
        ({"hardware__keep_checkpoints": 1}, "hardware.keep_checkpoints is 1; it must be at least 2"),
        ({"init_head": "checkpoint"}, "init_head=checkpoint needs a checkpoint; set init_from"),
        ({"optimizer__name": "lamb"}, "the head of this run is initialized to zero; set model.init=truncated"),
        (
            {"optimizer__name": "lamb", "init_from": "x"},
            "the head of this run is initialized to zero; set init_head=random",
        ),
        (
            {"init_from": "x", "init_head": "checkpoint", "objective__head_bias": -2.0},
            "objective.head_bias would overwrite it",
        ),
        ({"optimizer__name": "lamb", "optimizer__decay": "schedule"}, "lamb adds it to the update before its scaling"),
        ({"tuning__freeze": ["*"]}, "no parameter is trainable"),
        ({"model__num_classes": 7}, "the model has 7 classes"),
        ({"evaluators": ["top1", "top2"]}, "unknown evaluator 'top2'"),
        ({"batch_size": 1, "augment": Augment(mixing=Mixing(mixup=1.0))}, "batch_size 1 is too small for mixing"),
        ({"data__source": "folder:nowhere"}, "nowhere"),
        ({"init_from": "nowhere.safetensors"}, "nowhere"),
    ],
)
def test_nothing_is_written_for_an_invalid_run(
    small_run: Callable[..., Run], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message) as error:
        train(small_run(**changes), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_of_another_architecture_leaves_no_folder(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(steps=1, schedule__warmup=0), tmp_path / "first")
    run = small_run(init_from=str(tmp_path / "first" / "best"), model__depth=3)
    with pytest.raises(ValueError, match="has a different architecture from the run"):
        train(run, tmp_path / "second")
    assert os.listdir(tmp_path) == ["first"]
    # Nor is anything written into an existing empty folder.
    (tmp_path / "third").mkdir()
    with pytest.raises(ValueError, match="has a different architecture from the run"):
        train(run, tmp_path / "third")
    assert os.listdir(tmp_path / "third") == []


def test_init_head_chooses_the_initial_head(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(steps=1, schedule__warmup=0), tmp_path / "first")
    start = str(tmp_path / "first" / "best")
    run = small_run(init_from=start, init_head="checkpoint")
    assert torch.equal(initial_model(run).head.weight, vitkit.load(start).model.head.weight)
    assert not initial_model(small_run(init_from=start)).head.weight.any()
    torch.manual_seed(0)
    random = initial_model(
        small_run(init_from=start, init_head="random", model__init="truncated", model__num_classes=9)
    )
    assert random.head.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert torch.equal(random.blocks[1].attn.qkv.weight, vitkit.load(start).model.blocks[1].attn.qkv.weight)
    with pytest.raises(
        ValueError, match=r"a different architecture from the run: 'head.bias' is \(10,\) instead of \(9,\)"
    ):
        initial_model(small_run(init_from=start, init_head="checkpoint", model__num_classes=9))


def test_a_folder_of_another_run_is_rejected_before_the_data_are_read(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small_run(steps=1, schedule__warmup=0), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("vitkit.training.launch.open_data", None)
    with pytest.raises(ValueError, match="contains another run, which differs in seed; choose another folder"):
        train(small_run(steps=1, schedule__warmup=0, seed=3), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


WITH_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from vitkit.cli import main
from vitkit.data.sources.digits import Digits
from vitkit.training.checkpointing import files
Digits.__len__ = lambda self: 240
torch.set_num_threads(1)
# A limit of the file size imitates a full disk during the save of step 8.
original, limit = files.create_temporary, int(sys.argv[1])
def create_temporary(folder, step, **options):
    if step == 8:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return original(folder, step, **options)
files.create_temporary = create_temporary
sys.exit(main(sys.argv[2:]))
"""


# test_checkpoint_files.py and test_sharded_checkpoints.py imitate a full disk by default, without another process.
@pytest.mark.slow
@pytest.mark.parametrize(("checkpoint_format", "async_save"), [("full", False), ("sharded", True), ("sharded", False)])
def test_a_full_disk_during_a_save_ends_in_one_line(
    small_run: Callable[..., Run], tmp_path: Path, checkpoint_format: str, async_save: bool
) -> None:
    run = small_run(hardware__checkpoint_format=checkpoint_format, hardware__async_save=async_save, evaluate_every=100)
    (tmp_path / "run.json").write_text(to_json(run))
    folder = tmp_path / "run"
    message = ["train", "--from", str(tmp_path / "run.json"), "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", WITH_FULL_DISK, "20000", *message], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("vitkit: the checkpoint of step 8 could not be saved in")
    assert "the run resumes from 'step-00000004'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    assert saved["training"]["step"] == 4
    # With enough space, the same command resumes.
    assert train(run, folder).folder == folder
    last = saving.load_newest(RunFolder(folder).checkpoints)
    assert last is not None
    assert last["training"]["step"] == 12
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
