"""Every recipe that learns without labels or from a teacher takes two steps, made narrow but otherwise as it is."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from slow_cases import slow_except

from vitkit import checkpoints, models, recipes
from vitkit.config import override
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import dino, distillation
from vitkit.recipes import distillation as taught
from vitkit.recipes import pretraining
from vitkit.train import Run, train

NAMES = [name for name in recipes.recipes() if name.partition(".")[0] in ("pretraining", "distillation")]
# One of each objective.
FAST = ["distillation.digits_student", *(f"pretraining.{name}_cifar10" for name in ("beit", "dino", "mae", "masked"))]


def narrow(run: Run, teacher: Path) -> Run:
    """The run on some digits, one thin block deep; crops, views and masks stay as they are."""
    changes: dict[str, Any] = {
        "data.source": "digits", "model.num_classes": 10, "model.depth": 1, "model.width": 48, "model.num_heads": 3,
        "model.mlp_width": 48, "batch_size": 4, "epochs": None, "steps": 2, "schedule.warmup": 1,
        "evaluate_every": 2, "machine.workers": 0, "machine.threads": 1, "augment.repeats": 1,
    }  # fmt: skip
    if isinstance(run.objective, dino.Config):
        changes |= {"objective.outputs": 32, "objective.hidden": 16, "objective.local_crops": 2}
    if isinstance(run.objective, distillation.Config):
        changes["objective.teacher"] = str(teacher)
    return override(run, changes)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    model = models.build(dataclasses.replace(vit.TINY, num_classes=10))
    labels = tuple(map(str, range(10)))
    folder = tmp_path / "teacher"
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels), folder)
    return folder


@pytest.mark.parametrize("name", slow_except(NAMES, *FAST))
def test_two_steps(name: str, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.data.sources.digits.Digits.__len__", lambda self: 40)
    result = train(narrow(recipes.recipe(name), teacher), tmp_path / "run")
    assert result.step == 2
    assert checkpoints.load(tmp_path / "run" / "best").labels == tuple(map(str, range(10)))


def test_the_published_numbers() -> None:
    mae, dinos = pretraining.mae_b16_imagenet(), pretraining.dino_s16_imagenet()
    assert mae.optimizer.rate == pytest.approx(2.4e-3)
    assert (mae.batch_size, mae.epochs, mae.optimizer.betas) == (4096, 800.0, (0.9, 0.95))
    assert dinos.optimizer.rate == pytest.approx(2e-3)
    assert (dinos.objective.teacher_temperatures, dinos.objective.temperature_epochs) == ((0.04, 0.07), 30)
    assert pretraining.simmim_b16_imagenet().optimizer.rate == pytest.approx(4e-4)
    assert pretraining.masked_b16_imagenet().optimizer.rate == pytest.approx(2e-4)
    assert taught.deit_ti16_imagenet().optimizer.rate == pytest.approx(1e-3)
    # The objective counts in the epochs of its run.
    assert dinos.objective.epochs == dinos.epochs


def remembered(run: Run) -> float:
    """The share of the random teacher of the first step that is left in that of the last."""
    steps = run.total_steps(pretraining.IMAGENET)
    logs = (math.log(dino.teacher_momentum(run.objective, step / steps)) for step in range(steps))
    return math.exp(sum(logs))


@pytest.mark.slow
def test_the_teacher_forgets_what_it_started_from() -> None:
    """Where it does not, the student learns a random network, whose centred answers are uniform: `kl` 0, log K."""
    assert remembered(pretraining.dino_cifar10()) < 1e-9
    assert remembered(pretraining.dino_s16_imagenet()) < 1e-9
    short = override(pretraining.dino_cifar10(), {"objective.momentum": 0.996, "steps": 250})
    assert remembered(short) == pytest.approx(0.606, abs=0.01)  # what happened on the digits


def test_the_decay_and_the_clipping_of_dino() -> None:
    optimizer = pretraining.dino_s16_imagenet().optimizer
    assert (optimizer.weight_decay, optimizer.final_decay) == (0.04, 0.4)
    assert (optimizer.clip, optimizer.clip_by) == (3.0, "tensor")


def test_colours_are_counted_in_the_processors_numbers() -> None:
    for name in NAMES:
        run = recipes.recipe(name)
        numbers = getattr(run.objective, "colours", run.objective)
        if getattr(numbers, "mean", None) is not None:
            assert (numbers.mean, numbers.std) == (run.processor.mean, run.processor.std), name
