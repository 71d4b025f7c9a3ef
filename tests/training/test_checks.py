"""Invalid runs are rejected before training; images with several labels are trained with the sigmoid loss."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitkit import checkpoints, models
from vitkit.data import Relabelled, train_and_val
from vitkit.data.processor import Processor
from vitkit.data.sources.digits import Digits
from vitkit.models import vit
from vitkit.objectives import beit, dino, masked
from vitkit.training import Run, checks, train
from vitkit.training.events import read
from vitkit.training.finetune import finetune

STATISTICS = [
    (
        masked.Config(mean=(0.4, 0.5, 0.5)),
        r"the objective's mean is \(0\.4, 0\.5, 0\.5\), but the processor's is \(0\.5,",
    ),
    (masked.Config(std=(0.2, 0.2, 0.2)), r"the objective's std is \(0\.2, 0\.2, 0\.2\)"),
    (beit.Config(mean=(0.1, 0.1, 0.1)), "the objective's mean is"),
]


@pytest.mark.parametrize(("objective", "message"), STATISTICS, ids=["mean", "std", "beit"])
def test_mean_and_std_of_objective_and_processor_must_be_equal(
    small_run: Callable[..., Run], objective: Any, message: str
) -> None:
    run = dataclasses.replace(small_run(), objective=objective)
    with pytest.raises(ValueError, match=message):
        checks.check(run, Digits())
    valid = dataclasses.replace(objective, mean=run.processor.mean, std=run.processor.std)
    checks.check(dataclasses.replace(run, objective=valid), Digits())


def test_epochs_of_objective_and_run_must_be_equal(small_run: Callable[..., Run]) -> None:
    run = dataclasses.replace(small_run(), steps=None, epochs=30.0, objective=dino.Config(epochs=100))
    with pytest.raises(ValueError, match=r"objective\.epochs is 100, but the run has 30 epochs; they must be equal"):
        checks.check(run, Digits())
    checks.check(dataclasses.replace(run, objective=dino.Config(epochs=30)), Digits())


def test_an_image_size_that_is_not_a_multiple_of_the_patch_size_is_rejected(small_run: Callable[..., Run]) -> None:
    run = small_run(model__image_size=[10, 10], processor__size=[10, 10])
    with pytest.raises(ValueError, match="image_size 10 is not a multiple of patch_size 4; use 8"):
        checks.check(run, Digits())


def test_validation_classes_need_training_images(small_run: Callable[..., Run]) -> None:
    class FourClasses(Digits):
        def label(self, index: int) -> int:
            return super().label(index) % 4

    with pytest.raises(
        ValueError, match="the classes 4, 5, 6, 7, 8 and 1 more have validation images, but no training images"
    ):
        checks.check(small_run(), FourClasses(), Digits())
    checks.check(small_run(), Digits(), FourClasses())
    renamed = Relabelled(Digits(), tuple("abcdefghijk"), tuple(range(1, 11)))
    with pytest.raises(ValueError, match="the model has 10 classes, but the data source 'digits' has 11"):
        checks.check(small_run(), renamed)


def test_a_validation_label_out_of_range_is_rejected(small_run: Callable[..., Run]) -> None:
    class InvalidLabel(Digits):
        def label(self, index: int) -> int:
            return 12 if index == 3 else 0

    with pytest.raises(ValueError, match="validation image 3 has the label 12, but the classes are 0 to 9"):
        checks.check(small_run(), Digits(), InvalidLabel())


def test_class_folders_without_images_and_classes_without_training_images(
    small_run: Callable[..., Run], tmp_path: Path
) -> None:
    for split, name in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "fox")):
        (tmp_path / "photos" / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / split / name / "1.png")
    run = small_run(data__source=f"folder:{tmp_path / 'photos'}", model__num_classes=2)
    with pytest.raises(ValueError, match="has classes that are not in the training data: fox"):
        train(run, tmp_path / "run")
    (tmp_path / "photos" / "val" / "fox" / "1.png").unlink()
    with pytest.raises(ValueError, match="fox' has no images"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture_is_rejected(small_run: Callable[..., Run], tmp_path: Path) -> None:
    model = models.build(dataclasses.replace(vit.TINY, num_classes=2))
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("a", "b"))
    checkpoints.save(checkpoint, tmp_path / "other")
    with pytest.raises(ValueError, match="has a different architecture from the run: 'blocks"):
        train(small_run(init_from=str(tmp_path / "other")), tmp_path / "run")
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.fixture
def multilabel(tmp_path: Path) -> Path:
    """Images that contain up to three of red, green and blue, as a CSV table of labels."""
    random, rows = np.random.default_rng(0), ["image,label"]
    for number in range(120):
        present = random.random(3) < 0.5
        color = np.where(present, 230, 20) + random.integers(-15, 16, (8, 8, 3))
        Image.fromarray(color.astype(np.uint8)).save(tmp_path / f"{number}.png")
        names = "|".join(name for name, contained in zip(("red", "green", "blue"), present, strict=True) if contained)
        rows.append(f"{number}.png,{names}")
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "photos.csv"


def test_several_labels_per_image(small_run: Callable[..., Run], multilabel: Path, tmp_path: Path) -> None:
    run = small_run(data__source=f"csv:{multilabel}", model__num_classes=3, augment__flip=False)
    with pytest.raises(
        ValueError, match=r"has several labels \(.*\), but the softmax loss needs one; set objective\.loss=sigmoid"
    ):
        train(run, tmp_path / "softmax")
    valid = dataclasses.replace(
        run,
        objective=dataclasses.replace(run.objective, loss="sigmoid", label_smoothing=0.0, positive_weights="balanced"),
        evaluators=("average_precision",),
        metric="average_precision.mean",
        steps=60,
        evaluate_every=60,
    )
    result = train(valid, tmp_path / "run")
    assert result.score > 0.95
    (evaluation,) = (event for event in read(result.folder / "log.jsonl") if event["kind"] == "evaluation")
    assert evaluation["average_precision.mean"] == result.score
    assert (result.folder / "report.html").exists()


@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_finetuning_uses_the_sigmoid_loss_for_several_labels(multilabel: Path, tmp_path: Path, trained: bool) -> None:
    model = models.build(dataclasses.replace(vit.TINY, image_size=(16, 16)))
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(16), labels=tuple("abcde"))
    checkpoints.save(checkpoint, tmp_path / "model")
    run = finetune(str(tmp_path / "model"), f"csv:{multilabel}", steps=60, batch_size=16, lr=0.03)
    assert (run.objective.loss, run.metric) == ("sigmoid", "average_precision.mean")
    if trained:
        result = train(run, tmp_path / "run")
        assert result.score > 0.8
        assert (result.folder / "report.html").exists()


def test_balanced_class_weights_are_those_of_the_training_labels(small_run: Callable[..., Run], tmp_path: Path) -> None:
    run = small_run(objective__class_weights="balanced", steps=5)
    folder = train(run, tmp_path / "run").folder
    assert '"class_weights": "balanced"' in (folder / "config.json").read_text()
    source, _ = train_and_val("digits", held_out=0.2, seed=0)
    given = dataclasses.replace(run, objective=run.objective.fitted(source))
    assert isinstance(given.objective.class_weights, tuple)
    losses = [
        [event["loss"] for event in read(folder_of_run / "log.jsonl") if event["kind"] == "step"]
        for folder_of_run in (
            folder,
            train(given, tmp_path / "given").folder,
            train(small_run(steps=5), tmp_path / "none").folder,
        )
    ]
    assert losses[0] == losses[1] != losses[2]
