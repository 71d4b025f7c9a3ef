"""`vitkit train --backend jax`: initial weights, data and losses of a run are those of PyTorch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.data.sources.digits import Digits
from vitkit.jax import load
from vitkit.jax import run as jax_run
from vitkit.objectives import supervised
from vitkit.recipes import recipe
from vitkit.train import setup, train
from vitkit.train.optim import Optimizer

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
