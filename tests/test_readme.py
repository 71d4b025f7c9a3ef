"""The README's Python blocks and commands run, without network and GPU."""

import contextlib
import io
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slow_cases import slow_except

from vitkit import checkpoints, models, recipes, training
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.training.schedule import Schedule

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "python.md"]


def blocks(language: str) -> list[str]:
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for page in PAGES for block in fence.findall(page.read_text(encoding="utf-8"))]


def command_lines() -> list[str]:
    lines = [shlex.join(shlex.split(line, comments=True)) for block in blocks("sh") for line in block.splitlines()]
    # `vitkit demo` trains for a minute: `make demo` runs it, and tests/recipes runs it shortened.
    return [line for line in lines if line.startswith("vitkit ") and line != "vitkit demo"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names: a tiny model under the Hub's name, photos, an original .npz."""
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=5, activation="gelu_tanh"))
    torch.nn.init.normal_(model.head.weight)
    checkpoint = checkpoints.Checkpoint(
        model=model, processor=Processor.squash(32), labels=("cat", "dog", "daisy", "rose", "horse")
    )
    (tmp_path / "google").mkdir()
    checkpoints.save(checkpoint, tmp_path / "google" / "vit-base-patch16-224")
    checkpoints.save_checked(checkpoint, tmp_path / "ViT-B_16.npz", to="npz", lossy=True)
    generator = np.random.default_rng(0)
    classes = [f"flowers/{name}/{index}.jpg" for name in ("daisy", "rose") for index in range(4)]
    for name in ("cat.jpg", "dog.jpg", "photos/a.jpg", "photos/b.jpg", *classes):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    ages = [f"{name},{20 + index}" for index, name in enumerate(classes)]
    (tmp_path / "photos.csv").write_text("\n".join(["path,age", *ages]))
    (tmp_path / "runs" / "flowers").mkdir(parents=True)
    run = recipes.recipe("digits.tiny")  # for --resume
    (tmp_path / "runs" / "flowers" / "config.json").write_text(training.run.to_json(run))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_python_blocks_and_commands() -> None:
    assert blocks("python")
    assert command_lines()


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
def test_python_blocks(block: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Training takes minutes: the run has one step.
    train = training.train
    short = {"steps": 1, "epochs": None, "minutes": None, "schedule": Schedule(), "batch_size": 4}
    monkeypatch.setattr(training, "train", lambda run, folder, **options: train(replace(run, **short), folder))
    with contextlib.redirect_stdout(io.StringIO()):
        exec(block, {})  # the README is ours


# By default, tests/inference/test_export_files.py exports to ONNX.
SLOW = [line for line in command_lines() if "--to onnx" in line]


@pytest.mark.parametrize("line", slow_except(command_lines(), *(set(command_lines()) - set(SLOW))))
def test_commands(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--to onnx" in line:
        pytest.importorskip("onnxscript", reason="needs the extra: pip install 'vitkit[export]'")
    # Training takes long: the run is built, but not trained.
    result = training.Result(folder=place, score=1.0, step=1)
    monkeypatch.setattr(training, "train", lambda run, folder, **options: result)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(shlex.split(line)[1:]) == 0
