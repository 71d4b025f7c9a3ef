"""Recipes: descriptions, JSON round trips, published hyper-parameters, the VTAB benchmark and the demo."""

import dataclasses
import importlib
import io
import pkgutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

import vitkit
from vitkit import models, recipes
from vitkit.config import override
from vitkit.data.augment.presets import deit, deit3
from vitkit.data.sources import vtab as tasks
from vitkit.data.sources.digits import Digits
from vitkit.plugins.contracts import recipe as contract
from vitkit.recipes import digits, vtab
from vitkit.recipes import vtab as evaluate_vtab
from vitkit.recipes.digits import side_by_side, text_lines
from vitkit.training import Result, Run, checks, train
from vitkit.training.schedule import factor


@pytest.mark.parametrize("name", recipes.recipes())
def test_every_recipe_keeps_the_contract(name: str) -> None:
    for check in contract.CHECKS:
        check(name)


def test_names_are_unique_and_begin_with_their_file() -> None:
    files = [module.name for module in pkgutil.iter_modules(recipes.__path__)]
    entries = {file: getattr(importlib.import_module(f"vitkit.recipes.{file}"), "RECIPES", ()) for file in files}
    assert all(entry.name.startswith(f"{file}.") for file, each in entries.items() for entry in each)
    assert sum(map(len, entries.values())) == len(recipes.recipes()) > 100


def test_a_recipe_is_added_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added.py").write_text(
        "from vitkit.recipes import Recipe, digits\n"
        "RECIPES = (Recipe('added.digits', 'Digits', digits.tiny, expected='98 %', source='here', data='digits'),)\n"
    )
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    try:
        assert recipes.recipe("added.digits") == dataclasses.replace(digits.tiny(), name="added.digits")
        description = recipes.recipes()["added.digits"].description
    finally:
        sys.modules.pop("vitkit.recipes.added", None)
    assert description.splitlines()[0] == "Digits: 98 % (here)."
    assert "`vitkit train added.digits --data digits`" in description.splitlines()


def test_a_recipe_trains_for_two_steps(tmp_path: Path) -> None:
    run = override(recipes.recipe("digits.tiny"), {"steps": 2, "schedule.warmup": 1, "batch_size": 8})
    result = train(run, tmp_path / "run")
    assert result.step == 2
    assert (result.folder / "report.html").exists()


def test_an_unknown_recipe_lists_similar_names() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'digits\.tine'; did you mean 'digits\.tiny'"):
        recipes.recipe("digits.tine")


@pytest.mark.slow
def test_the_demo_prints_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = override(digits.tiny(), {"steps": 3, "schedule.warmup": 1, "evaluate_every": 3})
    monkeypatch.setattr(digits, "tiny", lambda: short)
    screen = io.StringIO()
    console = Console(file=screen, width=100)
    report = digits.demo(tmp_path / "demo", console=console)
    text = screen.getvalue()
    assert report == tmp_path / "demo" / "report.html"
    assert report.is_file()
    assert "1,438 training images, 359 held-out" in text.replace("\n", " ")
    assert "split seed 0, training seed 0" in text.replace("\n", " ")
    assert "Accuracy on the held-out images: " in text
    assert text.count("%)") >= 8
    assert "\u2588" in text
    assert str(report) in text.replace("\n", "")
    # The printed model folder is a checkpoint with class names.
    classifier = vitkit.load(tmp_path / "demo" / "best")
    assert classifier.labels == Digits.classes
    # A finished run is not overwritten, and an unfinished run is resumed.
    assert digits.demo(tmp_path / "demo", console=console) == tmp_path / "demo-2" / "report.html"
    (tmp_path / "demo-2" / "report.html").unlink()
    assert digits.demo(tmp_path / "demo", console=console) == tmp_path / "demo-2" / "report.html"


def test_images_as_text() -> None:
    image = Image.new("L", (2, 2))
    image.putpixel((0, 0), 255)
    image.putpixel((1, 1), 128)
    assert text_lines(image) == ["\u2588\u2588  ", "  \u2592\u2592"]
    assert side_by_side([["ab", "c"], ["d"]], gap=2) == "ab  d\nc"


def test_the_model_of_the_demo_is_that_of_the_paper(tmp_path: Path) -> None:
    config = digits.tiny().model
    assert (config.pool, config.class_token, config.position) == ("token", True, "learned")
    assert dataclasses.replace(config, num_classes=10) == config


PUBLISHED = [
    name
    for name in recipes.recipes()
    if name.startswith(("vit.", "augreg.", "transfer.", "cifar10.", "deit.", "deit3."))
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_without_data_raises_and_its_model_can_be_built(name: str, tmp_path: Path) -> None:
    run = recipes.recipe(name)
    with pytest.raises(ValueError, match="has no training data; set --data"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    checks.check_patch_size(run.model)
    checks.check_settings(run, torch.device("cpu"))
    model = models.build(run.model, device="meta")
    assert tuple(run.model.image_size) == tuple(run.processor.size)
    assert sum(parameter.numel() for parameter in model.parameters()) > 500_000


@pytest.mark.parametrize("task", tasks.TASKS)
def test_vtab_recipes(task: str) -> None:
    run = recipes.recipe(f"vtab.{task}")
    assert run.data.source == f"vtab:{task}"
    assert run.model.num_classes == tasks.TASKS[task].classes
    assert (run.steps, run.batch_size, run.optimizer.name, run.optimizer.lr) == (2_500, 512, "sgd", 0.01)
    published = evaluate_vtab.PUBLISHED["ViT-L/16 (I21k)"][task]
    assert f": {published} % (" in recipes.recipes()[f"vtab.{task}"].description


def test_vtab_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, float, Path]] = []

    def fake_train(run: Run, folder: Path) -> Result:
        done.append((run.data.source, run.optimizer.lr, folder))
        score = 0.5 if run.optimizer.lr == 0.01 else 0.6
        return Result(folder, score if ":tune" in run.data.source else len(done) / 1000, 1)

    monkeypatch.setattr(vtab, "train", fake_train)
    scores = vtab.benchmark(tmp_path, {"dtd": "folder:/data/dtd"})
    assert [source for source, _, _ in done] == [
        f"vtab:{task}@folder:/data/dtd" if task == "dtd" else f"vtab:{task}" for task in tasks.TASKS
    ]
    assert {rate for _, rate, _ in done} == {0.01}
    natural = [scores[task] for task in evaluate_vtab.GROUPS["natural"]]
    assert scores["natural"] == pytest.approx(sum(natural) / 7)
    assert scores["mean"] == pytest.approx(sum(scores[task] for task in tasks.TASKS) / 19)
    # With several learning rates, the best one on the 200 images is used to train on all 1,000.
    done.clear()
    vtab.benchmark(tmp_path, rates=(0.01, 0.03))
    assert [(source, rate) for source, rate, _ in done[:3]] == [
        ("vtab:caltech101:tune", 0.01), ("vtab:caltech101:tune", 0.03), ("vtab:caltech101", 0.03),
    ]  # fmt: skip
    assert len({folder for _, _, folder in done}) == len(done) == 57
    with pytest.raises(ValueError, match="VTAB has no task 'cars'"):
        vtab.benchmark(tmp_path, {"cars": "folder:/data/cars"})


def test_tables_3_and_4_of_the_vit_paper() -> None:
    rows = {
        "vit.b16_imagenet": (300, 3e-3, 0.3, 1.0), "vit.l16_imagenet21k": (90, 1e-3, 0.03, None),
        "vit.h14_imagenet21k": (90, 1e-3, 0.03, None), "vit.h14_jft": (14, 3e-4, 0.1, None),
        "vit.r50_b16_jft": (7, 8e-4, 0.1, None), "vit.r50_b32_jft": (7, 8e-4, 0.1, None),
        "vit.r50_l32_jft": (7, 2e-4, 0.1, None), "vit.r50_l16_jft": (14, 4e-4, 0.1, None),
    }  # fmt: skip
    for name, (epochs, rate, decay, clip) in rows.items():
        run = recipes.recipe(name)
        actual = (run.epochs, run.optimizer.lr, run.optimizer.weight_decay, run.optimizer.clip)
        assert actual == (epochs, rate, decay, clip), name
        assert (run.batch_size, run.schedule.warmup, run.optimizer.betas) == (4096, 10_000, (0.9, 0.999))
    steps = {"cifar10": 10_000, "cifar100": 10_000, "pets": 500, "flowers": 500, "imagenet": 20_000, "vtab": 2_500}
    for name, number in steps.items():
        run = recipes.recipe(f"transfer.{name}")
        assert (run.steps, run.batch_size, run.optimizer.weight_decay) == (number, 512, 0.0)
        assert (run.optimizer.name, run.optimizer.momentum, run.optimizer.clip) == ("sgd", 0.9, 1.0)


def test_deit_recipes_match_the_published_command() -> None:
    for name in ("deit.s16_imagenet", "distillation.deit_s16_imagenet"):
        run = recipes.recipe(name)
        assert run.augment == deit()
        assert (run.optimizer.lr, run.optimizer.weight_decay, run.optimizer.clip) == (1e-3, 0.05, None)
        assert (run.batch_size, run.epochs, run.objective.label_smoothing) == (1024, 300, 0.1)
        assert run.model.stochastic_depth == 0.1


def test_deit3_recipes_match_the_published_commands() -> None:
    for size, image, rate, depth in (("s16", 224, 4e-3, 0.05), ("b16", 192, 3e-3, 0.2), ("h14", 154, 3e-3, 0.6)):
        run = recipes.recipe(f"deit3.{size}_imagenet")
        assert run.augment == deit3()
        assert (run.optimizer.name, run.optimizer.lr, run.optimizer.weight_decay) == ("lamb", rate, 0.05)
        assert (run.batch_size, run.epochs, run.model.image_size[0]) == (2048, 800, image)
        assert (run.model.stochastic_depth, run.model.stochastic_depth_shape) == (depth, "constant")
        assert (run.objective.loss, run.objective.binarize_targets, run.objective.average) == (
            "sigmoid",
            True,
            "elements",
        )
        assert factor(run.schedule, 10**6, 10**6) * rate == pytest.approx(1e-5)
    larger = recipes.recipe("deit3.b16_384")
    assert (larger.init_from, larger.init_head) == ("runs/deit3.b16_224/best", "checkpoint")
    assert (larger.optimizer.name, larger.optimizer.lr, larger.augment.erasing.probability) == ("adamw", 1e-5, 0.0)
    assert factor(larger.schedule, 10**5, 10**6) == 1.0
    large = recipes.recipe("deit3.l16_imagenet21k")
    assert (large.augment.crop.kind, large.augment.mixing.mixup, large.augment.mixing.cutmix) == ("simple", 0.0, 1.0)
    finetuned = recipes.recipe("deit3.l16_from21k")
    assert (finetuned.init_from, finetuned.init_head) == ("runs/deit3.l16_imagenet21k/best", "random")
