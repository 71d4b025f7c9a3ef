"""`vitkit evaluate`: the table, the files, the evaluated images, and errors."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.processor import Processor
from vitkit.inference import load
from vitkit.objectives import supervised
from vitkit.report.evaluation import metric_rows
from vitkit.training import Data, Hardware, Run, train
from vitkit.training.events import read

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def save_images(root: Path, num: int, names: dict[str, tuple[int, int, int]] | None = None) -> None:
    """Saves noisy images of one color each, one folder per color."""
    random = np.random.default_rng(num)
    for name, color in (names or COLORS).items():
        (root / name).mkdir(parents=True)
        for index in range(num):
            pixels = np.clip(random.normal(color, 60, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints (classes in another order than the folders; no classes), and images with and without splits."""
    root = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    checkpoints.save(
        checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("Red", "green", "blue")),
        root / "model",
    )
    model.reset_head(0)
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=()), root / "backbone")
    save_images(root / "photos" / "train", 12)
    save_images(root / "photos" / "val", 5)
    save_images(root / "heap", 15)
    save_images(root / "fruit", 2, {"apple": (255, 0, 0), "plum": (0, 0, 255)})
    save_images(root / "more_fruit", 3, {"apple": (255, 0, 0), "plum": (0, 0, 255)})
    return root


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["evaluate", *map(str, arguments), "--device", "cpu", "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["evaluate", *map(str, arguments), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_metrics_are_those_of_the_val_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(capsys, folder / "model", "--data", f"folder:{folder / 'photos'}")
    assert (result["images"], result["classes"], result["training_images"]) == (15, 3, None)
    assert {key.split(".")[0] for key in result["metrics"]} == {"top1", "confusion", "calibration"}
    correct = 0
    for path, predictions in load(folder / "model").classify(str(folder / "photos" / "val"), device="cpu"):
        correct += predictions[0].label.lower() == Path(path).parent.name
    assert result["metrics"]["top1.accuracy"] == pytest.approx(correct / 15)


def test_evaluators_of_features_use_the_train_split(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = f"folder:{folder / 'photos'}"
    # These evaluators also work for a backbone without classes.
    for model in ("model", "backbone"):
        out = tmp_path / model
        result = evaluated(capsys, folder / model, "--data", data, "--with", "knn, fewshot,probe", "--out", out)
        assert (result["images"], result["training_images"]) == (15, 36)
        assert json.loads((out / "evaluation.json").read_text()) == result
        assert {"knn.k10", "knn.k20", "fewshot.5shot", "probe.accuracy"} <= set(result["metrics"])
        assert result["metrics"]["probe.accuracy"] > 0.5, "colors are easy to classify"
        assert "Its mistakes" not in (out / "report.html").read_text()
    other = evaluated(
        capsys, folder / "model", "--data", f"folder:{folder / 'photos' / 'val'}", "--train",
        f"folder:{folder / 'photos' / 'train'}", "--with", "knn,fewshot,probe",
    )  # fmt: skip
    with_model = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    assert other["metrics"] == pytest.approx(with_model["metrics"])


def test_a_fraction_can_be_held_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (folder / "model", "--data", f"folder:{folder / 'heap'}", "--held-out", "0.2", "--with", "top1,knn")
    result = evaluated(capsys, *arguments)
    assert (result["images"], result["training_images"]) == (9, 36)
    assert evaluated(capsys, *arguments)["metrics"] == result["metrics"]


class Checker(HTMLParser):
    """Checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_table_and_the_page_contain_the_metrics(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["evaluate", str(folder / "model"), "--data", f"folder:{folder / 'photos'}", "--device", "cpu"]
    assert main([*command, "--with", "top1,confusion,calibration,flops", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    text = (tmp_path / "out" / "report.html").read_text()
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    numbers, names = written["metrics"], written["files"]["predictions"]
    assert [(tmp_path / "out" / name).is_file() for name in ("report.html", *names)] == [True] * (len(names) + 1)
    assert "%" in next(line for line in out.splitlines() if "accuracy" in line)
    for evaluator, name, value in metric_rows(numbers):
        assert evaluator in out
        assert any(name in line and value in line for line in out.splitlines())
        assert f"<span class='soft'>{evaluator}</span> {name}</td><td>{value}</td>" in text
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    wrong = round(15 * (1 - numbers["top1.accuracy"]))
    assert f"{wrong} of 15" in text
    rows = json.loads(text.partition('id="mistakes-data">')[2].partition("</script>")[0])["rows"]
    assert len(rows) == wrong > 0
    assert all(row[6].startswith("data:image/") and row[7] for row in rows)  # the image and its attention map
    assert checker.tags.count("svg") == 1
    assert 'class="matrix"' in text
    # A second evaluation replaces the first, but not the report of a run.
    assert main([*command, "--with", "top1", "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out" / "evaluation.json").unlink()
    assert main([*command, "--with", "top1", "--out", str(tmp_path / "out")]) == 1
    assert "is not the report of an evaluation; choose another folder" in capsys.readouterr().err


def test_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, heap = f"folder:{folder / 'photos'}", f"folder:{folder / 'heap'}"
    fruit = f"folder:{folder / 'fruit'}"
    message = error_of(capsys, folder / "model", "--data", fruit)
    assert "(apple, plum) and the model has 3 labels (Red, green, blue), but no label matches apple, plum" in message
    assert "has no train split; set train or held_out" in error_of(
        capsys, folder / "model", "--data", heap, "--with", "knn"
    )
    assert "set held_out instead of train" in error_of(
        capsys, folder / "model", "--data", heap, "--train", heap, "--with", "knn"
    )
    message = error_of(capsys, folder / "model", "--data", heap, "--train", images)
    assert "these evaluators do not use training images" in message
    assert "held_out needs data without splits" in error_of(
        capsys, folder / "model", "--data", images, "--held-out", "0.2"
    )
    assert "has no classes to predict" in error_of(capsys, folder / "backbone", "--data", heap)
    assert "did you mean 'top1'" in error_of(capsys, folder / "model", "--data", heap, "--with", "top2")
    assert "no evaluator was given; choose from average_precision, calibration" in error_of(
        capsys, folder / "model", "--data", heap, "--with", ","
    )
    assert "set only one of them" in error_of(
        capsys, folder / "model", "--data", heap, "--train", images, "--held-out", "0.2", "--with", "knn"
    )


def test_images_of_other_classes_work_with_evaluators_of_features(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(
        capsys, folder / "model", "--data", f"folder:{folder / 'fruit'}", "--with", "fewshot",
        "--train", f"folder:{folder / 'more_fruit'}",
    )  # fmt: skip
    assert (result["classes"], result["images"], result["training_images"]) == (2, 4, 6)


def test_a_run_can_be_evaluated_by_nearest_neighbors(folder: Path, tmp_path: Path) -> None:
    run = Run(
        name="nearest neighbors",
        objective=supervised.Config(),
        model=models.preset("vit-mu/16", image_size=32, num_classes=3),
        data=Data(source=f"folder:{folder / 'photos'}"),
        processor=Processor.squash(32),
        evaluators=("knn",),
        metric="knn.k20",
        batch_size=12,
        steps=2,
        hardware=Hardware(device="cpu"),
    )
    result = train(run, tmp_path / "run")
    last = [event for event in read(tmp_path / "run" / "log.jsonl") if event["kind"] == "evaluation"][-1]
    assert result.score == last["knn.k20"] > 0


def test_limits_of_image_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"folder:{folder / 'heap'}"
    pixels = 20 * 24
    assert evaluated(capsys, folder / "model", "--data", data, "--max-pixels", pixels)["images"] == 45
    assert "limit max_pixels is 479" in error_of(capsys, folder / "model", "--data", data, "--max-pixels", pixels - 1)
    assert "the limit max_bytes" in error_of(capsys, folder / "model", "--data", data, "--max-bytes", 100)
