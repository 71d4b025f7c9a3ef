"""`train`, `finetune` and `--resume`: the same options, and nothing that has to be retyped."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import checkpoints, models
from vitkit.cli import command, main, parse
from vitkit.cli._arguments import options
from vitkit.cli._options import TrainingOptions
from vitkit.data.processor import Processor

SHARED = {field.name for field in dataclasses.fields(TrainingOptions)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class folders of images, and a tiny checkpoint of three classes."""
    root = tmp_path_factory.mktemp("options")
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for label in ("red", "green", "blue"):
        for number in range(10):
            path = root / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    labels = ("blue", "green", "red")
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels), root / "m")
    return root


def test_both_commands_have_the_same_options() -> None:
    one, other = ({name for name, each in options(command(name_)).items() if each.group == "training"}
                  for name_ in ("train", "finetune"))  # fmt: skip
    assert one == other == SHARED
    needed = {"steps", "epochs", "lr", "batch_size", "minutes", "seed", "set", "data", "val", "out", "resume"}
    assert needed < SHARED
    assert options(command("train"))["lr"].flags == options(command("finetune"))["lr"].flags == ("--lr", "--rate")


def test_zero_is_a_value() -> None:
    from vitkit.cli._outcomes import training_arguments

    given = parse("finetune", ["m", "--data", "d", "--seed", "0", "--held-out", "0"])
    assert training_arguments(given["training"]) == {"data": "d", "seed": 0, "held_out": 0.0, "settings": {}}


def test_a_run_is_made_resumed_and_extended(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An existing folder is a data source, and the run folder has a default name."""
    monkeypatch.chdir(place)
    words = ["--data", "photos", "--batch-size", "4", "--device", "cpu"]
    assert main(["finetune", "m", *words, "--set", "optimizer.weight_decay=0.1", "--set", "steps=3"]) == 0
    printed = capsys.readouterr()
    run = place / "runs" / "m-photos"
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["optimizer"]["weight_decay"]) == (3, 0.1)
    assert config["data"]["source"] == "folder:photos"
    assert printed.out.startswith("runs/m-photos/best: top1.accuracy ")
    assert "%" in printed.out
    assert "step      3 of 3" in printed.err
    for verb in ("train", "finetune"):
        longer = config["steps"] + 1
        assert main([verb, "--resume", str(run), "--steps", str(longer)]) == 0
        config = json.loads((run / "config.json").read_text())
        assert config["steps"] == longer
        assert f"step      {longer} of {longer}" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["train", "digits.tiny", "--resume", "r"], "cannot be combined with RECIPE"),
        (
            ["train", "--resume", "r", "--model", "vit-b/16", "--data", "d"],
            "cannot be combined with --model and --data",
        ),
        (["finetune", "m", "--resume", "r", "--lr", "1"], "cannot be combined with MODEL and --lr"),
        (["train", "--resume", "r"], "the path 'r' is not a run folder"),
        (["train", "--model", "vit-s/16"], "needs the name of an architecture and data"),
        (["train", "--model", "vit-b/15", "--data", "photos"], "did you mean 'vit-b/16'?"),
        (["train", "digits.tiny", "--set", "model=vit-b/15"], "unknown model 'vit-b/15'; did you mean 'vit-b/16'?"),
        (["train", "digits.tiny", "--objective", "mea"], "unknown objective 'mea'; did you mean 'mae'"),
        (["train", "digits.tiny", "--steps", "2", "--minutes", "3"], "set either steps or epochs or minutes"),
        (["train", "digits.tiny", "--from", "config.json"], "give either the name of a recipe or --from"),
        (["train"], "give the name of a recipe (`vitkit recipes`), --model with --data, --resume"),
        (["finetune", "m"], "`vitkit finetune` needs --data SOURCE"),
        (["finetune", "m", "--data", "photo"], "unknown data source 'photo', and there is no such file or folder"),
        (["finetune", "m", "--data", "photos", "--val", "photo"], "unknown data source 'photo'"),
        (["evaluate", "m", "--data", "photo"], "unknown data source 'photo'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_commands_are_one_line_and_write_nothing(
    line: list[str],
    words: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "m"):
        (tmp_path / name).symlink_to(place / name)
    assert main(line) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "photos"]


def test_the_name_of_an_architecture_trains(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--set model=` and `--model` crashed with a traceback; both change the model, and say what follows."""
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(place / "photos"), "--steps", "1", "--batch-size", "4", "--image-size", "32"]
    assert main(["train", "digits.tiny", "--set", "model=vit-mu/16", *words, "--out", "a"]) == 0
    assert "the processor is for 32 x 32 pixels and 3 channels, as in the model" in capsys.readouterr().err
    assert main(["train", "--model", "vit-mu/16", "--objective", "simmim", *words, "--set", "objective.unit=16"]) == 0
    assert "evaluators is knn and metric is knn.k20" in capsys.readouterr().err
    assert json.loads((tmp_path / "runs/vit-mu-16-photos/config.json").read_text())["select"] == "last"


def test_an_exported_model_is_evaluated_with_a_report(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(place / "m"), "--to", "program", "--out", str(tmp_path / "exported")]) == 0
    words = ["--data", str(place / "photos"), "--out", str(tmp_path / "report"), "--device", "cpu"]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "exported"), *words]) == 0
    printed = capsys.readouterr()
    assert "accuracy" in printed.out
    assert not printed.err
    assert (tmp_path / "report" / "report.html").is_file()
    metrics = json.loads((tmp_path / "report" / "evaluation.json").read_text())["metrics"]
    assert f"{metrics['top1.accuracy']:.2%}" in printed.out
