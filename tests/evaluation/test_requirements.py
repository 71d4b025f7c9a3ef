"""What an evaluator needs is checked before any image is read, and its metrics are known by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitkit import evaluation, models
from vitkit.data import Example, Label, Source
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.processor import Processor
from vitkit.evaluation import ModelOutputs, linear, probe
from vitkit.evaluation.requirements import EvaluationData, check, check_metric
from vitkit.models import bit, vit
from vitkit.task import Task
from vitkit.training import Run, train

PROCESSOR = Processor.squash(8)
CONFIG = vit.Config(image_size=(8, 8), patch_size=(4, 4), width=16, depth=2, num_heads=2, mlp_width=32, num_classes=6)


class Labels(Source):
    """Gray images with given labels; reading one is an error unless `readable`."""

    def __init__(self, labels: list[Label], num_classes: int = 6, readable: bool = False):
        self.labels = labels
        self.classes = tuple("abcdefghij"[:num_classes])
        self.readable = readable

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, **options: object) -> Example:
        assert self.readable, "a check must not read images"
        pixels = np.full((8, 8, 3), 7 * index % 256, dtype=np.uint8)
        return Example(image=Image.fromarray(pixels), label=self.labels[index], key=f"{index}.png")

    def label(self, index: int) -> Label:
        return self.labels[index]


class Numbers(Labels):
    """Gray images with targets."""

    regression = True

    def read(self, index: int, **options: object) -> Example:
        return replace(super().read(index, **options), label=(), targets=self.targets(index))

    def targets(self, index: int) -> tuple[float, ...]:
        return tuple(float(index * (target + 1)) for target in range(len(self.classes)))


def specs(folder: Path) -> dict[str, str]:
    """Every evaluator of classes by name, with an argument where it needs one."""
    (folder / "real.json").write_text(json.dumps({f"{index}.png": [index % 4] for index in range(12)}))
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:4, :4] = 1
    for index in range(12):
        Image.fromarray(mask).save(folder / f"{index}.png")
    given = {"real": f"real:{folder / 'real.json'}", "segmentation": f"segmentation:{folder}"}
    return {name: given.get(name, name) for name in evaluation.evaluators() if name != "regression"}


@pytest.mark.parametrize("num_classes", [4, 6])
def test_every_evaluator_names_the_metrics_that_it_computes(
    tmp_path: Path, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "EPOCHS", 1)
    monkeypatch.setattr(probe, "MAX_STEPS", 5)
    model = models.build(replace(CONFIG, num_classes=num_classes))
    source, training = (Labels([i % 4 for i in range(n)], num_classes, readable=True) for n in (12, 24))
    data = EvaluationData(model, source, training, PROCESSOR)
    (tmp_path / "masks").mkdir()
    every = specs(tmp_path / "masks")
    batches: dict[str, Callable] = {
        name: lambda of=of: evaluation_batches(of, Transform(PROCESSOR), batch_size=8)
        for name, of in (("source", source), ("training", training))
    }
    subject = ModelOutputs(model, batches["source"], source.classes, training=batches["training"], processor=PROCESSOR)
    for name, spec in every.items():
        (known,) = check(data, [spec]).values()
        found = evaluation.evaluate(subject, [spec])
        assert known is not None, f"{name} has no check"
        assert sorted(key.rpartition(".")[2] for key in found) == sorted(known), name


@pytest.mark.parametrize("num_targets", [1, 2])
def test_regression_names_the_metrics_that_it_computes(num_targets: int) -> None:
    task = Task(problem_type="regression")
    model = models.build(replace(CONFIG, num_classes=num_targets, task=task))
    source = Numbers([0] * 12, num_targets, readable=True)
    (known,) = check(EvaluationData(model, source, None, PROCESSOR), ["regression"]).values()
    subject = ModelOutputs(
        model, lambda: evaluation_batches(source, Transform(PROCESSOR), batch_size=8), source.classes
    )
    found = evaluation.evaluate(subject, ["regression"])
    assert known is not None
    assert sorted(key.rpartition(".")[2] for key in found) == sorted(known)


@pytest.mark.parametrize(
    ("spec", "labels", "training", "message"),
    [
        ("top1", [], [0], "there are no images to evaluate on"),
        ("top1", [(), ()], [0], "no image has a label"),
        ("calibration", [-1], [0], "no image has a label"),
        ("knn", [0, 1], [0] * 9, "knn needs at least 10 labeled training images, but there are 9; add images"),
        ("knn", [0, 1], [-1] * 20, "no training image has a label"),
        ("knn", [0, 1], None, "need labeled training images, but none were given"),
        ("fewshot", [-1], [0, 1], "no image has a label"),
        ("probe", [0], [0, 1, 2], "a held-out set needs a class with at least two training images"),
        ("linear", [0], [0, 1, 2], "a held-out set needs a class with at least two training images"),
        ("linear:x", [0], [0, 0], "linear is 'x'; expected a number of blocks, as in linear:4"),
        ("throughput:float8", [0], [0], "unknown precision 'float8'"),
        ("real:no such file", [0], [0], "no such file"),
        (
            "real:labels.json",
            [0],
            [0],
            r"'labels\.json' contains the label 6, but the classes of the images are 0 to 5",
        ),
        ("subset:no such file", [0], [0], "no such file"),
        ("segmentation:no such folder", [0], [0], "the folder 'no such folder' contains no masks"),
        ("top2", [0], [0], "unknown evaluator 'top2'"),
    ],
)
def test_metrics_that_cannot_exist_are_rejected(
    spec: str,
    labels: list[Label],
    training: list[Label] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.json").write_text('{"0.png": [0, 6]}')
    model = models.build(CONFIG, device="meta")
    data = EvaluationData(model, Labels(labels), None if training is None else Labels(training), PROCESSOR)
    with pytest.raises((ValueError, OSError), match=message):
        check(data, [spec])


def test_models_that_an_evaluator_cannot_read_are_rejected() -> None:
    images = Labels([0, 1] * 10)
    data = EvaluationData(models.build(replace(CONFIG, pool="none"), device="meta"), images, images, PROCESSOR)
    with pytest.raises(ValueError, match="knn needs one vector per image, but the model has no pooling"):
        check(data, ["knn"])
    convolutional = EvaluationData(
        models.build(replace(bit.TINY, num_classes=6), device="meta"), images, images, PROCESSOR
    )
    with pytest.raises(ValueError, match="linear needs encoder blocks"):
        check(convolutional, ["linear"])
    for classes, message in ((0, "the model has no classes"), (5, "the model has 5 classes, but the labels have 6")):
        model = models.build(replace(CONFIG, num_classes=classes), device="meta")
        with pytest.raises(ValueError, match=message):
            check(EvaluationData(model, images), ["top1"])


def test_the_metric_of_a_run_must_exist_for_its_data() -> None:
    model = models.build(replace(CONFIG, num_classes=3), device="meta")
    data = EvaluationData(model, Labels([0] * 6, 3), Labels([0] * 18, 3), PROCESSOR)
    known = check(data, ["top1", "knn"])
    check_metric("knn.k10", known, data)
    for metric in ("knn.k20", "top1.top5", "top1.acuracy", "real.accuracy"):
        words = (
            f"no evaluator computes the metric '{metric}' for 18 training images and 6 validation images of 3 classes"
        )
        with pytest.raises(ValueError, match=words):
            check_metric(metric, known, data)
    check_metric("own.metric", {"own": None}, data)  # an evaluator without check


def test_a_run_whose_metric_cannot_exist_leaves_no_folder(tmp_path: Path) -> None:
    from vitkit.config import override
    from vitkit.recipes import recipe

    run: Run = override(
        recipe("digits.tiny"),
        {"evaluators": ["knn"], "metric": "knn.k200", "data.source": "part:number=8@digits", "hardware.device": "cpu"},
    )
    with pytest.raises(ValueError, match=r"no evaluator computes the metric 'knn\.k200'"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
