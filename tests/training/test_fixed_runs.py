"""Corrections (`--fix`) in runs and commands: applied, stored, reported, and the same after resuming."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.fixes import Fix
from vitkit.data.processor import Processor
from vitkit.training import Run, RunFolder, train
from vitkit.training.adapt import open_data
from vitkit.training.events import read
from vitkit.training.summary import load_report

FIXES = (Fix(key="digit 3", label="8"), Fix(key="digit 5"), Fix(key="digit 8", split="val"), Fix(key="digit 9999"))


def predictions(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_a_run_stores_reports_and_keeps_its_corrections(small_run: Callable[..., Run], tmp_path: Path) -> None:
    run, plain = small_run(data__fixes=FIXES), small_run()
    before, after = open_data(plain), open_data(run)
    keys = [[source.key(index) for index in range(len(source))] for source in (*before, *after)]
    assert [set(keys[split]) - set(keys[split + 2]) for split in (0, 1)] in (
        [{"digit 5", "digit 8"}, set()], [{"digit 5"}, {"digit 8"}], [{"digit 8"}, {"digit 5"}],
        [set(), {"digit 5", "digit 8"}])  # fmt: skip
    relabelled = next(
        source.classes[source.label(names.index("digit 3"))]  # type: ignore[index]
        for source, names in zip(after, keys[2:], strict=True)
        if "digit 3" in names
    )
    assert relabelled == "8"
    train(run, tmp_path / "run")
    files = RunFolder(tmp_path / "run")
    assert files.run().data.fixes == FIXES
    text = "1 label changed, 2 images dropped; 1 key not in the data: digit 9999"
    (event,) = (event for event in read(files.log) if event["kind"] == "corrections")
    assert event["note"] == f"corrections: {text}"
    assert f"Corrections: {text}." in files.report.read_text()
    report = load_report(files)
    assert (len(report.training), len(report.validation)) == (len(after[0]), len(after[1]))
    assert list(predictions(tmp_path / "run")) == keys[3]
    # The same run is recognized; one without corrections, or with others, is another one.
    files.check(run)
    for other in (plain, small_run(data__fixes=FIXES[:2])):
        with pytest.raises(ValueError, match=r"differs in data\.fixes"):
            files.check(other)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and images of two colors."""
    root = tmp_path_factory.mktemp("fixed")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=2))
    torch.nn.init.normal_(model.head.weight)
    labels = ("dark", "light")
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels), root / "model")
    for name, value in (("dark", 30), ("light", 200)):
        (root / "photos" / name).mkdir(parents=True)
        for index in range(8):
            Image.fromarray(np.full((20, 24, 3), value + index, np.uint8)).save(root / "photos" / name / f"{index}.png")
    return root


def write(path: Path, *rows: str) -> Path:
    path.write_text("".join(f"{row}\n" for row in ("key,action,label", *rows)))
    return path


def test_the_commands_apply_corrections(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixes = write(tmp_path / "fixes.csv", "dark/0.png,relabel,light", "light/1.png,drop,", "light/2.png,,light")
    data = ["--data", f"folder:{place / 'photos'}", "--fix", str(fixes)]
    words = ["evaluate", str(place / "model"), *data, "--device", "cpu", "--out", str(tmp_path / "evaluation")]
    assert main(words) == 0
    text = "corrections: 1 label changed, 1 image dropped, 1 label already correct"
    assert f"vitkit: {text}" in capsys.readouterr().err
    table = predictions(tmp_path / "evaluation")
    assert len(table) == 15
    assert {row["split"] for row in table.values()} == {"all"}
    assert (table["dark/0.png"]["label"], table["dark/1.png"]["label"]) == ("light", "dark")
    written = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert written["fixes"][0] == {"key": "dark/0.png", "label": "light", "split": ""}
    assert (written["images"], written["split"]) == (15, "all")
    assert "Corrections: 1 label changed" in (tmp_path / "evaluation" / "report.html").read_text()
    words = ["finetune", str(place / "model"), *data, "--out", str(tmp_path / "run"), "--steps", "2"]
    settings = ["--batch-size", "4", "--set", "hardware.device=cpu", "hardware.threads=1"]
    assert main([*words, *settings]) == 0
    captured = capsys.readouterr()
    assert text in captured.out + captured.err
    assert "%" in captured.out.splitlines()[-1]
    fixes.unlink()  # the run has its own copy
    again = ["train", "--from", str(tmp_path / "run" / "config.json"), "--out", str(tmp_path / "again")]
    assert main([*again, *settings[2:]]) == 0
    assert len(RunFolder(tmp_path / "again").run().data.fixes) == 3
    assert sum(len(source) for source in open_data(RunFolder(tmp_path / "again").run())) == 15


def test_wrong_corrections_end_before_anything_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixes = write(tmp_path / "fixes.csv", "dark/0.png,relabel,lihgt")
    data = ["--data", f"folder:{place / 'photos'}", "--fix", str(fixes)]
    for words in (["evaluate", str(place / "model"), "--device", "cpu"], ["finetune", str(place / "model")]):
        assert main([*words, *data, "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert "has the unknown class 'lihgt'; did you mean 'light'?" in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_corrections_of_an_evaluation_with_splits(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        (tmp_path / "data" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(place / "photos", target_is_directory=True)
    fixes = tmp_path / "fixes.csv"
    words = ["evaluate", str(place / "model"), "--data", f"folder:{tmp_path / 'data'}", "--fix", str(fixes), "--json"]
    fixes.write_text("key,split,action\ndark/0.png,val,drop\ndark/1.png,train,drop\n")
    assert main([*words, "--device", "cpu", "--with", "top1,knn"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["training_images"], result["split"]) == (15, 15, "val")


def test_the_functions_apply_corrections(place: Path, tmp_path: Path) -> None:
    fixes, data = write(tmp_path / "fixes.csv", "dark/0.png,relabel,light", "light/1.png,drop,"), place / "photos"
    found = vitkit.evaluate(place / "model", data, fix=fixes, device="cpu", out=tmp_path / "evaluation")
    assert len(found.source) == len(predictions(tmp_path / "evaluation")) == 15
    fixed = {"fix": fixes, "steps": 2, "batch_size": 4, "device": "cpu"}
    run = vitkit.finetune(place / "model", data, **fixed, out=tmp_path / "run")
    assert [fix.key for fix in run.config.data.fixes] == ["dark/0.png", "light/1.png"]
    scratch = vitkit.train(model="vit-mu/16", image_size=32, data=data, **fixed, out=tmp_path / "scratch")
    assert scratch.config.data.fixes == run.config.data.fixes
    with pytest.raises(ValueError, match=r"'data\.fixes' was given twice"):
        vitkit.finetune(place / "model", data, fix=fixes, settings={"data.fixes": ()}, out=tmp_path / "twice")
