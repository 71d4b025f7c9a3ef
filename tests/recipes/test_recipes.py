"""Every recipe says its command, survives JSON and takes two steps; the demo tells its story."""

import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import vitkit
from vitkit import models, recipes
from vitkit.config import override
from vitkit.data.digits import Digits
from vitkit.recipes import digits
from vitkit.recipes.drawing import side_by_side, text_lines
from vitkit.train import run as runs
from vitkit.train import train


@pytest.mark.parametrize("name", recipes.recipes())
def test_a_recipe_says_how_it_is_run(name: str) -> None:
    function = recipes.recipes()[name]
    doc = function.__doc__ or ""
    assert f"vitkit train {name} --data " in doc or f'train(recipe("{name}"), ' in doc
    run = function()
    assert run.name == name
    assert runs.from_json(runs.to_json(run)) == run


@pytest.mark.parametrize("name", ["digits.tiny"])
def test_a_recipe_takes_two_steps(name: str, tmp_path: Path) -> None:
    run = override(recipes.recipe(name), {"steps": 2, "schedule.warmup": 1, "batch_size": 8})
    result = train(run, tmp_path / "run")
    assert result.step == 2
    assert (result.folder / "report.html").exists()


def test_an_unknown_recipe_lists_the_near_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'digits\.tine'; did you mean 'digits\.tiny'"):
        recipes.recipe("digits.tine")


def test_the_demo_shows_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digits.tiny
    short = override(whole(), {"steps": 3, "schedule.warmup": 1, "evaluate_every": 3})
    monkeypatch.setattr(digits, "tiny", lambda: short)
    screen = io.StringIO()
    console = Console(file=screen, width=100)
    report = digits.demo(tmp_path / "demo", console=console)
    text = screen.getvalue()
    assert report == tmp_path / "demo" / "report.html"
    assert report.is_file()
    assert "1,438 to learn from, 359 held" in text.replace("\n", " ")
    assert "split seed 0, training seed 0" in text.replace("\n", " ")
    assert "of the held-out digits are read right" in text
    assert text.count("%)") >= 8
    assert "\u2588" in text
    assert str(report) in text.replace("\n", "")
    # What it says can be loaded is a checkpoint, with its names.
    classifier = vitkit.load(tmp_path / "demo" / "best")
    assert classifier.labels == Digits.classes
    # Again: beside the run that is over, and in the place of one that is not.
    assert digits.demo(tmp_path / "demo", console=console) == tmp_path / "demo-2" / "report.html"
    (tmp_path / "demo-2" / "report.html").unlink()
    assert digits.demo(tmp_path / "demo", console=console) == tmp_path / "demo-2" / "report.html"


def test_pictures_as_text() -> None:
    image = Image.new("L", (2, 2))
    image.putpixel((0, 0), 255)
    image.putpixel((1, 1), 128)
    assert text_lines(image) == ["\u2588\u2588  ", "  \u2592\u2592"]
    assert side_by_side([["ab", "c"], ["d"]], gap=2) == "ab  d\nc"


def test_the_demos_model_is_the_papers(tmp_path: Path) -> None:
    config = digits.tiny().model
    assert (config.pool, config.class_token, config.position) == ("token", True, "learned")
    assert dataclasses.replace(config, num_classes=10) == config


PUBLISHED = [name for name in recipes.recipes() if name.startswith(("vit.", "augreg.", "transfer.", "cifar10."))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_without_its_pictures_says_so_and_its_model_can_be_built(name: str, tmp_path: Path) -> None:
    run = recipes.recipe(name)
    with pytest.raises(ValueError, match="needs pictures: say --data"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model = models.build(run.model, device="meta")
    assert tuple(run.model.image_size) == tuple(run.processor.size)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1_000_000
