"""Every objective in the training loop: runs that are killed and resumed end with the same bits."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from slow_cases import slow_except

from vitkit import checkpoints, models, objectives
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import dino, distillation, mae, simmim
from vitkit.training import Data, Hardware, Run, RunFolder, launch, train
from vitkit.training.checkpointing import saving
from vitkit.training.events import read
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

MODEL = vit.Config(
    image_size=(16, 16), patch_size=(4, 4), width=16, depth=2, num_heads=2, mlp_width=32, num_classes=10,
    dropout=0.1, attention_dropout=0.1, stochastic_depth=0.1,
)  # fmt: skip
# Smaller values for images of 16 pixels.
SMALL: dict[str, dict[str, Any]] = {
    "beit": {"codes": 16, "code_width": 4, "hidden": 8, "smallest": 2, "tokenizer_fraction": 0.5},
    "dino": {"outputs": 32, "hidden": 16, "bottleneck": 8, "local_crops": 2, "epochs": 3, "temperature_epochs": 2,
             "teacher_temperatures": (0.04, 0.07)},
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "simmim": {"unit": 8},
}  # fmt: skip


class Killed(BaseException):
    """Raised in place of `kill -9`."""


def small_run(name: str, teacher: str, **changes: Any) -> Run:
    module = objectives.objective(name)
    config = module.Config(**SMALL.get(name, {}))
    if isinstance(config, distillation.Config):
        config = dataclasses.replace(config, teacher=teacher)
    run = Run(
        name="small",
        model=MODEL,
        objective=config,
        data=Data(source="digits"),
        processor=Processor.squash(16),
        augment=Augment(shift=0.1, flip=True),
        optimizer=Optimizer(lr=1e-2),
        schedule=Schedule(warmup=1),
        batch_size=8,
        steps=3,
        evaluate_every=3,
        evaluators=("top1",),
        select="last",
        hardware=Hardware(device="cpu", threads=1, save_every=1, log_every=1),
    )
    return dataclasses.replace(run, **changes)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(5)
    model = models.build(dataclasses.replace(MODEL, init="truncated"))
    folder = tmp_path_factory.mktemp("teacher") / "checkpoint"
    labels = tuple(map(str, range(10)))
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(16), labels=labels), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.data.sources.digits.Digits.__len__", lambda self: 60)


def final(folder: Path) -> dict[str, Any]:
    saved = saving.load_newest(RunFolder(folder).checkpoints)
    assert saved is not None
    return saved["training"]


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original: Callable[..., None] = launch.Events.step

    def hooked(self: Any, number: int, scalars: dict[str, float]) -> None:
        original(self, number, scalars)
        if number == step:
            raise Killed

    monkeypatch.setattr(launch.Events, "step", hooked)


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("name", slow_except(objectives.objectives(), "beit"))
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    name: str, tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(name, teacher)
    train(run, tmp_path / "uninterrupted")
    for step in (2, 3):  # killed before step 2 and 3 are saved
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                train(run, tmp_path / "run")
    train(run, tmp_path / "run")
    assert final(tmp_path / "run")["step"] == 3
    assert_equal(final(tmp_path / "run"), final(tmp_path / "uninterrupted"))
    # The best checkpoint loads, and is the backbone of the objective.
    best = checkpoints.load(tmp_path / "run" / "best").model.state_dict()
    saved = final(tmp_path / "run")["objective"]
    for key, tensor in best.items():
        assert torch.equal(tensor, saved[f"backbone.{key}"]), key


@pytest.mark.parametrize("name", slow_except(objectives.objectives(), "dino"))
def test_the_training_checkpoint_restores_the_objective(name: str, tmp_path: Path, teacher: str) -> None:
    # Into an objective with another random initialization.
    run = small_run(name, teacher)
    train(run, tmp_path / "run")
    saved = final(tmp_path / "run")["objective"]
    torch.manual_seed(99)
    built = objectives.build(run.objective, models.build(run.model))
    built.load_state_dict(saved)
    assert_equal(dict(built.state_dict()), dict(saved))


def test_dino_updates_its_centre_with_gradient_accumulation(tmp_path: Path, teacher: str) -> None:
    train(small_run("dino", teacher, grad_accum_steps=2), tmp_path / "run")
    saved = final(tmp_path / "run")["objective"]
    assert saved["center"].abs().sum() > 0
    assert saved["progress"].item() == 1


def test_the_defaults_are_those_of_the_papers() -> None:
    assert (mae.Config().mask_ratio, mae.Config().decoder_width, mae.Config().decoder_depth) == (0.75, 512, 8)
    assert (simmim.Config().mask_ratio, simmim.Config().unit) == (0.6, 32)
    assert (dino.Config().outputs, dino.Config().momentum, dino.Config().local_crops) == (65536, 0.996, 8)


@pytest.mark.slow
def test_the_cost_of_a_step_is_measured_again_in_another_phase(teacher: str, tmp_path: Path) -> None:
    """The phases of BEiT have different costs; a resumed run logs each cost once."""

    def costs(folder: Path) -> list[tuple[int, int, float]]:
        events = [event for event in read(folder / "log.jsonl") if event["kind"] == "cost"]
        return [(event["step"], event["phase"], event["flops_per_image"]) for event in events]

    folder = train(small_run("beit", teacher), tmp_path / "run").folder
    (first, zero, tokenizer), (second, one, backbone) = costs(folder)
    assert (first, zero, second, one) == (1, 0, 3, 1)
    assert tokenizer > 0 < backbone != tokenizer
    for last in (1, 2):
        for saved in (folder / "checkpoints").iterdir():
            if int(saved.name.rpartition("-")[2].partition(".")[0]) > last:
                shutil.rmtree(saved) if saved.is_dir() else saved.unlink()
        shutil.rmtree(folder / "best")
        train(small_run("beit", teacher), folder)
        assert costs(folder) == [(1, 0, tokenizer), (3, 1, backbone)]
