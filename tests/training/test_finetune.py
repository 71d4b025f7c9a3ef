"""`vitkit finetune` and `vitkit train` from the command line to a saved checkpoint; one line for every error."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image

import vitkit
from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.training import RunFolder
from vitkit.training import finetune as finetuning

COLORS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a small checkpoint `model` and a class folder `photos` of three colors, eight images each."""
    root = tmp_path_factory.mktemp("finetune")
    torch.manual_seed(0)
    config = dataclasses.replace(vit.TINY, image_size=(16, 16), dropout=0.1)
    model = models.build(config)
    labels = tuple("abcde")
    processor = Processor.crop(16, 0.8)
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=processor, labels=labels), root / "model")
    generator = np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / "photos" / name).mkdir(parents=True)
        for index in range(8):
            pixels = np.clip(np.array(color) + generator.integers(-30, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{index}.png")
    return root


@pytest.mark.slow
def test_the_fine_tuned_model_opens_in_transformers(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "finetune",
        str(workspace / "model"),
        "--data",
        f"folder:{workspace / 'photos'}",
        "--out",
        str(tmp_path / "run"),
    ]
    arguments += ["--image-size", "24", "--steps", "40", "--lr", "0.05", "--batch-size", "8"]
    assert main([*arguments, "--set", "hardware.device=cpu", "hardware.threads=1"]) == 0
    assert "top1.accuracy 100.00%" in capsys.readouterr().out
    run = RunFolder(tmp_path / "run").run()
    assert (run.model.image_size, run.model.num_classes, run.model.dropout) == ((24, 24), 3, 0.0)
    assert run.processor.size == (24, 24)
    assert run.processor.resize_to == 30  # the crop ratio of the checkpoint's processor
    assert run.init_from == str(workspace / "model")
    best = tmp_path / "run" / "best"
    classifier = vitkit.load(best)
    assert classifier.labels == ("blue", "green", "red")
    photo = workspace / "photos" / "green" / "0.png"
    ((_, (first, *_)),) = classifier.classify(str(photo))
    assert first.label == "green"
    transformers = oracle("transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(best).eval()
    assert theirs.config.id2label == {0: "blue", 1: "green", 2: "red"}
    pixels = classifier.processor(str(photo))
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixel_values=pixels).logits, classifier(pixels), atol=1e-5, rtol=1e-4)
    # The same command again trains nothing; another run is rejected.
    assert main([*arguments, "--set", "hardware.device=cpu", "hardware.threads=1"]) == 0
    assert main([*arguments, "--seed", "1"]) == 1
    assert "contains another run, which differs in seed" in capsys.readouterr().err
    # Repeated from its config.json.
    again = ["train", "--from", str(tmp_path / "run" / "config.json"), "--out", str(tmp_path / "again")]
    assert main([*again, "--set", "steps=2", "schedule.warmup=1"]) == 0
    assert RunFolder(tmp_path / "again").run().init_from == run.init_from


@pytest.mark.parametrize("mode", ["head", "lora"])
def test_only_the_chosen_parameters_are_trained(workspace: Path, tmp_path: Path, mode: str) -> None:
    arguments = [
        "finetune",
        str(workspace / "model"),
        "--data",
        f"folder:{workspace / 'photos'}",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*arguments, "--mode", mode, "--steps", "6", "--set", "hardware.device=cpu", "select=last"]) == 0
    saved = vitkit.load(tmp_path / "run" / "best").model.state_dict()
    first = vitkit.load(workspace / "model").model.state_dict()
    moved = {name for name in saved if name[:4] != "head" and not torch.equal(saved[name], first[name])}
    assert moved == (
        set() if mode == "head" else {f"blocks.{i}.attn.{p}.weight" for i in (0, 1) for p in ("qkv", "proj")}
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--image-size", "30"], "image_size 30 is not a multiple of patch_size 8; use 32"),
        (["--data", "folder:{workspace}/nothing"], "there is no folder"),
        (["--data", "folder:{empty}"], "has no images"),
        (["--val", "folder:{other}"], "has classes that are not in the training data: yellow"),
        (["--epochs", "2", "--steps", "3"], "set either steps or epochs or minutes, not several"),
        (["--lr", "0"], "optimizer.lr is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--out", "{workspace}"], "exists and is not a run folder"),
        (["--set", "optimizer.lrr=1"], "unknown key 'optimizer.lrr'; did you mean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_and_write_nothing(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    (tmp_path / "empty" / "cats").mkdir(parents=True)
    for name in ("red", "yellow"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "other" / name / "1.png")
    given = [word.format(workspace=workspace, empty=tmp_path / "empty", other=tmp_path / "other") for word in arguments]
    defaults = {"--data": f"folder:{workspace / 'photos'}", "--out": str(tmp_path / "run")}
    rest = [word for name, value in defaults.items() if name not in given for word in (name, value)]
    before = sorted(workspace.rglob("*"))
    assert main(["finetune", str(workspace / "model"), *rest, *given]) == 1
    printed = capsys.readouterr().err
    assert error in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert sorted(workspace.rglob("*")) == before


def test_incomplete_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 1
    assert "give the name of a recipe" in capsys.readouterr().err
    assert main(["train", "digits.tine"]) == 1
    assert "did you mean 'digits.tiny'" in capsys.readouterr().err
    assert main(["recipes", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "digits.tiny" in [row["name"] for row in rows]
    assert main(["recipes", "digits.tiny"]) == 0
    assert "98.6 to 99.2 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_images", "steps", "batch_size", "lr"),
    [
        (20, 500, 16, 0.01),
        (2_000, 500, 32, 0.01),
        (3_680, 500, 64, 0.01),
        (50_000, 10_000, 512, 0.01),
        (1_281_167, 20_000, 512, 0.03),
    ],
)
def test_defaults_are_those_of_the_papers(num_images: int, steps: int, batch_size: int, lr: float) -> None:
    found = finetuning.defaults(num_images)
    assert (found.steps, found.batch_size, found.lr) == (steps, batch_size, lr)
    assert found.warmup in (100, 500)


def test_the_report_names_the_validation_split(workspace: Path, tmp_path: Path) -> None:
    data = tmp_path / "photos"
    for split in ("train", "val"):
        for name, color in COLORS.items():
            (data / split / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (20, 20), color).save(data / split / name / f"{index}.png")
    arguments = ["finetune", str(workspace / "model"), "--data", f"folder:{data}", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--steps", "2", "--batch-size", "4", "--set", "hardware.device=cpu"]) == 0
    text = (tmp_path / "run" / "report.html").read_text()
    assert "(its own validation split)" in text
    assert "held out with seed" not in text
