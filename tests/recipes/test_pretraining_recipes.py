"""Every self-supervised and every distillation recipe trains for two steps with a small model."""

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
from vitkit.recipes import pretraining
from vitkit.training import Run, train

NAMES = [name for name in recipes.recipes() if name.partition(".")[0] in ("pretraining", "distillation")]
# One of each objective.
FAST = [f"pretraining.{name}_cifar10" for name in ("beit", "dino", "mae", "masked")]


def narrow(run: Run, teacher: Path) -> Run:
    """Returns the run on the digits with one narrow block; crops, views and masks are unchanged."""
    changes: dict[str, Any] = {
        "data.source": "digits", "model.num_classes": 10, "model.depth": 1, "model.width": 48, "model.num_heads": 3,
        "model.mlp_width": 48, "batch_size": 4, "epochs": None, "steps": 2, "schedule.warmup": 1,
        "evaluate_every": 2, "hardware.workers": 0, "hardware.threads": 1, "augment.repeats": 1,
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
def test_two_training_steps(name: str, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.data.sources.digits.Digits.__len__", lambda self: 40)
    result = train(narrow(recipes.recipe(name), teacher), tmp_path / "run")
    assert result.step == 2
    assert checkpoints.load(tmp_path / "run" / "best").labels == tuple(map(str, range(10)))


def test_published_hyperparameters() -> None:
    mae, dinos = (recipes.recipe(f"pretraining.{name}") for name in ("mae_b16_imagenet", "dino_s16_imagenet"))
    assert mae.optimizer.lr == pytest.approx(2.4e-3)
    assert (mae.batch_size, mae.epochs, mae.optimizer.betas) == (4096, 800.0, (0.9, 0.95))
    assert dinos.optimizer.lr == pytest.approx(2e-3)
    assert (dinos.objective.teacher_temperatures, dinos.objective.temperature_epochs) == ((0.04, 0.07), 30)
    assert recipes.recipe("pretraining.simmim_b16_imagenet").optimizer.lr == pytest.approx(4e-4)
    assert recipes.recipe("pretraining.masked_b16_imagenet").optimizer.lr == pytest.approx(2e-4)
    assert recipes.recipe("distillation.deit_ti16_imagenet").optimizer.lr == pytest.approx(1e-3)
    # The schedules of the objective use the epochs of the run.
    assert dinos.objective.epochs == dinos.epochs


def initial_weight(run: Run) -> float:
    """Returns the weight of the randomly initialized teacher in the teacher of the last step."""
    steps = run.total_steps(pretraining.IMAGENET)
    logs = (math.log(dino.teacher_momentum(run.objective, step / steps)) for step in range(steps))
    return math.exp(sum(logs))


@pytest.mark.slow
def test_the_final_teacher_does_not_depend_on_its_initialization() -> None:
    """Otherwise the student learns a random network, whose centered outputs are uniform: `kl` 0, loss log K."""
    cifar10 = recipes.recipe("pretraining.dino_cifar10")
    assert initial_weight(cifar10) < 1e-9
    assert initial_weight(recipes.recipe("pretraining.dino_s16_imagenet")) < 1e-9
    short = override(cifar10, {"objective.momentum": 0.996, "steps": 250})
    assert initial_weight(short) == pytest.approx(0.606, abs=0.01)  # the momentum that failed on the digits


def test_weight_decay_and_clipping_of_dino() -> None:
    optimizer = recipes.recipe("pretraining.dino_s16_imagenet").optimizer
    assert (optimizer.weight_decay, optimizer.final_decay) == (0.04, 0.4)
    assert (optimizer.clip, optimizer.clip_by) == (3.0, "tensor")


def test_objectives_use_the_mean_and_std_of_the_processor() -> None:
    for name in NAMES:
        run = recipes.recipe(name)
        statistics = getattr(run.objective, "colors", run.objective)
        if getattr(statistics, "mean", None) is not None:
            assert (statistics.mean, statistics.std) == (run.processor.mean, run.processor.std), name
