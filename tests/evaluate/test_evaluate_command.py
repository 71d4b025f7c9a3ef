"""`vitkit evaluate` as people type it: the table, the files, which pictures are judged, and what is refused."""

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
from vitkit.objectives import supervised
from vitkit.predict import load
from vitkit.report.evaluation import metric_rows
from vitkit.train import Data, Machine, Run, train
from vitkit.train.events import read

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def photos(folder: Path, num: int, names: dict[str, tuple[int, int, int]] | None = None) -> None:
    """Noisy pictures of plain colours, a folder for each."""
    random = np.random.default_rng(num)
    for name, colour in (names or COLOURS).items():
        (folder / name).mkdir(parents=True)
        for index in range(num):
            pixels = np.clip(random.normal(colour, 60, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its classes in another order than the folders, and one without; photos in splits and in one heap."""
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
    photos(root / "photos" / "train", 12)
    photos(root / "photos" / "val", 5)
    photos(root / "heap", 15)
    photos(root / "fruit", 2, {"apple": (255, 0, 0), "plum": (0, 0, 255)})
    photos(root / "more_fruit", 3, {"apple": (255, 0, 0), "plum": (0, 0, 255)})
    return root


def asked(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert main(["evaluate", *map(str, words), "--device", "cpu", "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["evaluate", *map(str, words), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_numbers_are_those_of_the_val_split_under_the_names_of_the_model(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(capsys, place / "model", "--data", f"folder:{place / 'photos'}")
    assert (found["images"], found["classes"], found["training_images"]) == (15, 3, None)
    assert {key.split(".")[0] for key in found["metrics"]} == {"top1", "confusion", "calibration"}
    right = 0
    for path, predictions in load(place / "model").classify(str(place / "photos" / "val"), device="cpu"):
        right += predictions[0].label.lower() == Path(path).parent.name
    assert found["metrics"]["top1.accuracy"] == pytest.approx(right / 15)


def test_every_evaluator_of_features_learns_from_the_train_split(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = f"folder:{place / 'photos'}"
    # A backbone without classes is judged like any other by what learns.
    for model in ("model", "backbone"):
        out = tmp_path / model
        found = asked(capsys, place / model, "--data", data, "--with", "knn, fewshot,probe", "--out", out)
        assert (found["images"], found["training_images"]) == (15, 36)
        assert json.loads((out / "evaluation.json").read_text()) == found
        assert {"knn.k10", "knn.k20", "fewshot.5shot", "probe.accuracy"} <= set(found["metrics"])
        assert found["metrics"]["probe.accuracy"] > 0.5, "colours are not hard to tell apart"
        assert "Its mistakes" not in (out / "report.html").read_text()
    other = asked(
        capsys, place / "model", "--data", f"folder:{place / 'photos' / 'val'}", "--train",
        f"folder:{place / 'photos' / 'train'}", "--with", "knn,fewshot,probe",
    )  # fmt: skip
    with_model = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    assert other["metrics"] == pytest.approx(with_model["metrics"])


def test_a_share_can_be_held_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (place / "model", "--data", f"folder:{place / 'heap'}", "--held-out", "0.2", "--with", "top1,knn")
    found = asked(capsys, *words)
    assert (found["images"], found["training_images"]) == (9, 36)
    assert asked(capsys, *words)["metrics"] == found["metrics"]


class Checker(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_table_and_the_page_say_the_numbers(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["evaluate", str(place / "model"), "--data", f"folder:{place / 'photos'}", "--device", "cpu"]
    assert main([*words, "--with", "top1,confusion,calibration,flops", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    text = (tmp_path / "out" / "report.html").read_text()
    numbers = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    for evaluator, name, value in metric_rows(numbers):
        assert evaluator in out
        assert any(name in line and value in line for line in out.splitlines())
        assert f"<span class='soft'>{evaluator}</span> {name}</td><td>{value}</td>" in text
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    wrong = round(15 * (1 - numbers["top1.accuracy"]))
    assert f"{wrong} of 15" in text
    assert checker.tags.count("img") == 2 * wrong > 0  # each with where the model looked
    assert checker.tags.count("svg") == 1
    assert 'class="matrix"' in text
    # A second evaluation may take the place of the first, but a run's report stays.
    assert main([*words, "--with", "top1", "--out", str(tmp_path / "out")]) == 0
    (tmp_path / "out" / "evaluation.json").unlink()
    assert main([*words, "--with", "top1", "--out", str(tmp_path / "out")]) == 1
    assert "is not the report of an evaluation; choose another folder" in capsys.readouterr().err


def test_what_does_not_fit_is_one_clear_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos_, heap = f"folder:{place / 'photos'}", f"folder:{place / 'heap'}"
    fruit = f"folder:{place / 'fruit'}"
    message = refused(capsys, place / "model", "--data", fruit)
    assert "has 2 classes (apple, plum), the model 3 (Red, green, blue): apple, plum have no label" in message
    assert "has no train split: set train or held_out" in refused(
        capsys, place / "model", "--data", heap, "--with", "knn"
    )
    assert "set held_out to split it" in refused(
        capsys, place / "model", "--data", heap, "--train", heap, "--with", "knn"
    )
    assert "trains nothing; leave train out" in refused(capsys, place / "model", "--data", heap, "--train", photos_)
    assert "held_out needs data without splits" in refused(
        capsys, place / "model", "--data", photos_, "--held-out", "0.2"
    )
    assert "has no classes to predict" in refused(capsys, place / "backbone", "--data", heap)
    assert "did you mean 'top1'" in refused(capsys, place / "model", "--data", heap, "--with", "top2")
    assert "no evaluator is given; choose from average_precision, calibration" in refused(
        capsys, place / "model", "--data", heap, "--with", ","
    )
    assert "leave one of them out" in refused(
        capsys, place / "model", "--data", heap, "--train", photos_, "--held-out", "0.2", "--with", "knn"
    )


def test_pictures_of_other_classes_are_fine_where_nothing_asks_the_model_for_its_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = asked(
        capsys, place / "model", "--data", f"folder:{place / 'fruit'}", "--with", "fewshot",
        "--train", f"folder:{place / 'more_fruit'}",
    )  # fmt: skip
    assert (found["classes"], found["images"], found["training_images"]) == (2, 4, 6)


def test_a_run_may_be_judged_by_what_learns(place: Path, tmp_path: Path) -> None:
    run = Run(
        name="judged by neighbours",
        objective=supervised.Config(),
        model=models.preset("vit-mu/16", image_size=32, num_classes=3),
        data=Data(source=f"folder:{place / 'photos'}"),
        processor=Processor.squash(32),
        evaluators=("knn",),
        score="knn.k20",
        batch_size=12,
        steps=2,
        machine=Machine(device="cpu"),
    )
    result = train(run, tmp_path / "run")
    last = [event for event in read(tmp_path / "run" / "log.jsonl") if event["kind"] == "evaluation"][-1]
    assert result.score == last["knn.k20"] > 0
