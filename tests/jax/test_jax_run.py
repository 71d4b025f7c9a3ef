"""`vitkit train --backend jax`: initial weights, data and losses of a run are those of PyTorch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slow_cases import slow_except

from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.sources.digits import Digits
from vitkit.jax import TrainingConfig, fit, load
from vitkit.jax import run as jax_run
from vitkit.objectives import supervised
from vitkit.recipes import recipe
from vitkit.task import Task
from vitkit.training import Data, Run, setup, train
from vitkit.training.optim import Optimizer

SHORT = ["--set", "steps=3", "evaluate_every=3", "hardware.log_every=1", "schedule.warmup=1", "batch_size=16"]
SMALL = ["model.depth=1", "model.width=48", "model.mlp_width=96"]


def short_run():
    run = recipe("digits.tiny")
    model = replace(run.model, depth=1, width=48, mlp_width=96)
    schedule, hardware = replace(run.schedule, warmup=1), replace(run.hardware, log_every=1)
    changes = {"steps": 3, "batch_size": 16, "evaluate_every": 3, "model": model}
    return replace(run, schedule=schedule, hardware=hardware, **changes)


@pytest.mark.slow
def test_command_trains_and_both_backends_load_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "digits.tiny", "--backend", "jax", "--out", str(out), *SHORT, *SMALL]) == 0
    assert "validation_top1" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["backend"] == "jax"
    assert checkpoints.load(out / "best").labels == tuple("0123456789")
    assert load(out / "best").config.width == 48


def test_losses_match_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "__len__", lambda self: 240)
    run = short_run()
    fitted = jax_run.train(run, tmp_path / "jax")
    train(run, tmp_path / "torch")
    rows = [json.loads(line) for line in (tmp_path / "torch" / "log.jsonl").read_text().splitlines()]
    expected = [row["loss"] for row in rows if "loss" in row and "lr" in row]
    losses = [row["loss"] for row in fitted.log]
    assert len(expected) == len(losses) == 3
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_initial_weights_match_pytorch() -> None:
    run = short_run()
    torch.manual_seed(run.seed)
    expected = models.build(run.model).patch_embed.proj.weight.detach().numpy().transpose(2, 3, 1, 0)
    kernel = jax_run.random_checkpoint(run.model, run.seed).params["embedding"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)


def test_initial_weights_are_adapted_to_the_channels_of_the_run_like_those_of_pytorch(tmp_path: Path) -> None:
    run = short_run()
    rgb = models.build(replace(run.model, channels=3))
    labels = tuple("0123456789")
    processor = run.processor.with_channels(3)
    checkpoints.save(checkpoints.Checkpoint(model=rgb, processor=processor, labels=labels), tmp_path / "rgb")
    model = replace(checkpoints.load(tmp_path / "rgb").model.config, channels=4)
    run = replace(run, init_from=str(tmp_path / "rgb"), model=model, processor=processor.with_channels(4))
    given = jax_run.initial_checkpoint(run, labels)
    assert (given.config.channels, given.processor) == (4, run.processor)
    kernel = setup.initial_model(run).patch_embed.get_parameter("proj.weight").detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(given.params["embedding"]["kernel"], kernel)


def test_unsupported_settings_raise(tmp_path: Path) -> None:
    run = short_run()
    run = replace(run, schedule=replace(run.schedule, decay="rsqrt"), precision="float16")
    with pytest.raises(
        ValueError, match=r"does not support schedule.decay=rsqrt, precision=float16; use --backend torch"
    ):
        jax_run.train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    objective = supervised.Config(loss="sigmoid", binarize_targets=True, class_weights=(1.0,) * 10)
    run = replace(
        short_run(), objective=objective, init_from="x", init_head="checkpoint", optimizer=Optimizer(final_decay=0.4)
    )
    message = r"objective.binarize_targets=True, objective.class_weights, optimizer.final_decay=0.4, .*checkpoint"
    with pytest.raises(ValueError, match=message):
        jax_run.train(run, tmp_path / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray images with a number and labels each. One training and one validation image are broken."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    numbers, labels = ["path,target,split"], []
    for index in range(48):
        level, split = random.random(), "train" if index < 32 else "val"
        pixels = random.integers(0, 40, (8, 8)) + int(200 * level)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{index}.png")
        if index in (3, 40):
            (root / f"{index}.png").write_bytes(b"nothing")
        numbers.append(f"{index}.png,{1000 + 100 * level:.3f},{split}")
        names = [name for name, limit in (("dim", 0.3), ("bright", 0.6)) if level > limit]
        labels.append(json.dumps({"path": f"{index}.png", "label": names, "split": split}))
    (root / "numbers.csv").write_text("\n".join(numbers))
    (root / "labels.jsonl").write_text("\n".join(labels))
    return root


def run_of(images: Path, kind: str, **changes: object) -> Run:
    run = short_run()
    source = f"csv:{images / 'numbers.csv'}" if kind == "numbers" else f"jsonl:{images / 'labels.jsonl'}"
    objective = supervised.Config(loss="mse" if kind == "numbers" else "sigmoid")
    evaluators = ("regression",) if kind == "numbers" else ("average_precision", "f1")
    metric = "regression.r2" if kind == "numbers" else "average_precision.mean"
    model = replace(run.model, num_classes=1 if kind == "numbers" else 2, image_size=(8, 8), patch_size=(4, 4))
    processor = replace(run.processor, size=(8, 8))
    changes = {"evaluators": evaluators, "metric": metric, "objective": objective, "batch_size": 8, **changes}
    return replace(run, data=Data(source=source), model=model, processor=processor, **changes)


@pytest.mark.parametrize("kind", slow_except(["numbers", "labels"], "numbers"))
def test_other_tasks_match_pytorch_and_name_unreadable_images(images: Path, tmp_path: Path, kind: str) -> None:
    run = run_of(images, kind, steps=4, evaluate_every=2)
    fitted = jax_run.train(run, tmp_path / "jax")
    expected = train(run, tmp_path / "torch")
    rows = [json.loads(line) for line in (tmp_path / "torch" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row and "lr" in row]
    np.testing.assert_allclose([row["loss"] for row in fitted.log], losses, rtol=1e-4)
    last = next(row for row in reversed(rows) if row["kind"] == "evaluation")
    names = {"validation_map": "average_precision.mean", "validation_f1": "f1.micro"}
    if kind == "numbers":
        names = {f"validation_{name}": f"regression.{name}" for name in ("r2", "mae", "rmse")}
    found = {name: fitted.log[-1][name] for name in names}
    assert found == pytest.approx({name: last[theirs] for name, theirs in names.items()}, rel=1e-3, abs=1e-4)
    best = load(tmp_path / "jax" / "best")
    assert best.config.task == checkpoints.load(tmp_path / "torch" / "best").model.config.task
    assert best.config.task.regression == (kind == "numbers")
    assert sorted(fitted.unreadable) == sorted(expected.unreadable)
    assert len(fitted.unreadable) == 2
    assert "3.png" in " ".join(fitted.unreadable)
    again = jax_run.train(run, tmp_path / "jax")  # a finished run is read again
    assert (again.log, again.unreadable) == (fitted.log, fitted.unreadable)


@pytest.mark.slow
def test_what_cannot_fit_is_rejected_before_the_first_step(images: Path, tmp_path: Path) -> None:
    run = run_of(images, "labels", tune_threshold=True)
    with pytest.raises(ValueError, match="does not support tune_threshold; use --backend torch"):
        jax_run.train(run, tmp_path / "run")
    run = run_of(images, "numbers", metric="regression.mae", select="best")
    with pytest.raises(ValueError, match=r"does not support metric=regression\.mae"):
        jax_run.train(run, tmp_path / "run")
    run = replace(
        run_of(images, "numbers"), objective=supervised.Config(), evaluators=("top1",), metric="top1.accuracy"
    )
    with pytest.raises(ValueError, match=r"are numbers; set objective\.loss=mse"):
        jax_run.train(run, tmp_path / "run")
    broken = replace(run_of(images, "numbers"), data=replace(run.data, max_pixels=1))
    with pytest.raises(ValueError, match="no training image can be read"):
        jax_run.train(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    task = Task(problem_type="regression")
    with pytest.raises(ValueError, match=r"loss='softmax' does not fit the model.*; use loss='mse'"):
        fit(replace(run.model, task=task), lambda step: iter(()), TrainingConfig(steps=1))


def test_a_run_that_fails_before_its_first_step_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "__len__", lambda self: 240)
    with pytest.raises(ValueError, match=r"minutes is 3, which the JAX backend does not support; set steps or epochs"):
        jax_run.train(replace(short_run(), steps=None, minutes=3), tmp_path / "a" / "run")

    def damaged(*_: object, **__: object) -> None:
        raise OSError("the shard is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(jax_run, "training_batches", damaged)
        with pytest.raises(OSError, match="the shard is damaged"):
            jax_run.train(short_run(), tmp_path / "a" / "run")
    assert not list(tmp_path.iterdir())
    assert jax_run.training_config(replace(short_run(), evaluate_every=None), 500).evaluate_every == 50
