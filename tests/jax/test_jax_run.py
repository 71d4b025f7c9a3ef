"""`vitkit train --backend jax`: a recipe's run on the twin starts, sees and optimises what the PyTorch one does."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vitkit import checkpoints, models
from vitkit.cli import main
from vitkit.jax import load
from vitkit.jax import run as twin
from vitkit.objectives import supervised
from vitkit.recipes import recipe
from vitkit.train import train
from vitkit.train.optim import Optimizer

SHORT = ["--set", "steps=3", "evaluate_every=3", "hardware.log_every=1", "schedule.warmup=1", "batch_size=16"]
SMALL = ["model.depth=1", "model.width=48", "model.mlp_width=96"]


def short():
    run = recipe("digits.tiny")
    model = replace(run.model, depth=1, width=48, mlp_width=96)
    schedule, hardware = replace(run.schedule, warmup=1), replace(run.hardware, log_every=1)
    changes = {"steps": 3, "batch_size": 16, "evaluate_every": 3, "model": model}
    return replace(run, schedule=schedule, hardware=hardware, **changes)


@pytest.mark.slow
def test_the_command_trains_and_both_sides_open_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "digits.tiny", "--backend", "jax", "--out", str(out), *SHORT, *SMALL]) == 0
    assert "validation_top1" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["backend"] == "jax"
    assert checkpoints.load(out / "best").labels == tuple("0123456789")
    assert load(out / "best").config.width == 48


def test_losses_are_those_of_pytorch(tmp_path: Path) -> None:
    run = short()
    fitted = twin.train(run, tmp_path / "jax")
    train(run, tmp_path / "torch")
    rows = [json.loads(line) for line in (tmp_path / "torch" / "log.jsonl").read_text().splitlines()]
    expected = [row["loss"] for row in rows if "loss" in row and "lr" in row]
    found = [row["loss"] for row in fitted.log]
    assert len(expected) == len(found) == 3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_fresh_weights_are_pytorchs() -> None:
    run = short()
    torch.manual_seed(run.seed)
    expected = models.build(run.model).patch_embed.proj.weight.detach().numpy().transpose(2, 3, 1, 0)
    kernel = twin.fresh(run.model, run.seed).params["embedding"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)


def test_what_the_twin_cannot_do_is_named(tmp_path: Path) -> None:
    run = short()
    run = replace(run, schedule=replace(run.schedule, decay="rsqrt"), precision="float16")
    with pytest.raises(ValueError, match=r"no schedule.decay=rsqrt, no precision=float16: use --backend torch"):
        twin.train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    objective = supervised.Config(loss="sigmoid", whole_targets=True, class_weights=(1.0,) * 10)
    run = replace(
        short(), objective=objective, init_from="x", init_head="checkpoint", optimizer=Optimizer(final_decay=0.4)
    )
    named = r"no objective.whole_targets=True, no objective.class_weights, no optimizer.final_decay=0.4, .*checkpoint"
    with pytest.raises(ValueError, match=named):
        twin.train(run, tmp_path / "run")
