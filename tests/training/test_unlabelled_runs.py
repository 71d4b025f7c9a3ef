"""Self-supervised training on images without labels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import checkpoints, config, evaluation, models
from vitkit.cli import main
from vitkit.data.loader import Batch
from vitkit.evaluation.rank import effective_rank
from vitkit.models import vit
from vitkit.objectives import mae
from vitkit.recipes import recipe
from vitkit.training import Run, train
from vitkit.training.adapt import adapt
from vitkit.training.events import read
from vitkit.training.run import RunFolder

SMALL = [
    *("batch_size=8", "steps=4", "schedule.warmup=1", "evaluate_every=2", "precision=float32", "model.depth=1"),
    *("model.width=32", "model.num_heads=2", "hardware.device=cpu"),
]


def images(folder: Path, number: int = 30) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(number):
        Image.fromarray(random.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return f"folder:{folder}"


@pytest.mark.parametrize("layout", ["flat", "one class"])
def test_a_pretraining_recipe_runs_without_labels(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = images(tmp_path / "flat") if layout == "flat" else images(tmp_path / "flat" / "all").removesuffix("/all")
    out = tmp_path / "run"
    command = ["train", "pretraining.mae_cifar10", "--data", name, "--out", str(out), "--set", *SMALL]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "model.num_classes is 0 instead of 10" in printed.err
    assert "not evaluated by knn" in printed.err
    run = RunFolder(out).run()
    assert (run.model.num_classes, run.evaluators, run.metric, run.select) == (0, ("rank",), "rank.effective", "last")
    values = [event["rank.effective"] for event in read(out / "log.jsonl") if event["kind"] == "evaluation"]
    assert len(values) == 2
    assert all(1 <= value <= 6 for value in values)  # 6 images are held out
    saved = checkpoints.load(out / "best")
    assert saved.labels == ()
    report = (out / "report.html").read_text()
    assert "without labels" in report
    assert "rank.effective" in report
    # The same command finds the finished run.
    assert main(command) == 0
    assert main(["evaluate", str(out / "best"), "--data", name, "--with", "rank", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert metrics["rank.images"] == 30


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "digits.tiny"], "has no class folders; put the images of each class in a separate folder"),
        (
            ["train", "pretraining.mae_cifar10", "--set", *SMALL, 'evaluators=["knn"]'],
            "the evaluator 'knn' needs labels",
        ),
    ],
)
def test_what_needs_labels_says_so_before_the_first_step(
    command: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = images(tmp_path / "flat")
    assert main([*command[:2], "--data", name, "--out", str(tmp_path / "run"), *command[2:]]) == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert not (tmp_path / "run").exists()


def test_finetuning_needs_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = images(tmp_path / "flat")
    assert main(["finetune", "nowhere", "--data", name, "--out", str(tmp_path / "run")]) == 1
    assert "has no class folders" in capsys.readouterr().err


def test_a_run_without_labels_is_reproducible(small_run: Callable[..., Run], tmp_path: Path) -> None:
    name = images(tmp_path / "flat")
    changes: dict[str, Any] = {"data.source": name, "evaluators": ["rank"], "metric": "rank.effective"}
    model = vit.Config(
        image_size=(8, 8), patch_size=(4, 4), width=16, depth=1, num_heads=2, mlp_width=32, num_classes=0
    )
    objective = mae.Config(decoder_width=16, decoder_depth=1, decoder_heads=2)
    run = replace(small_run(steps=6, evaluate_every=3, batch_size=8), model=model, objective=objective)
    run = config.override(run, changes)
    train(run, tmp_path / "once")
    train(run, tmp_path / "twice")
    one, other = (checkpoints.load(tmp_path / each / "best").model.state_dict() for each in ("once", "twice"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_adapt_keeps_what_was_chosen(tmp_path: Path) -> None:
    run = config.override(recipe("pretraining.dino_cifar10"), {"data.source": images(tmp_path / "flat")})
    adapted, notes = adapt(run, {"model.num_classes", "evaluators"})
    assert adapted == run
    assert notes == []
    digits = config.override(recipe("pretraining.mae_cifar10"), {"data.source": "part:classes=0-2@digits"})
    adapted, notes = adapt(digits)
    assert adapted.model.num_classes == 3
    assert (adapted.evaluators, adapted.metric) == (digits.evaluators, digits.metric)
    assert notes == ["model.num_classes is 3 instead of 10, as in 'part:classes=0-2@digits'"]


def test_the_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5, rel=1e-4)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1, abs=1e-3)
    random = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(random.double())
    p = singular / singular.sum() + 1e-7
    assert effective_rank(random) == pytest.approx(float((-p * p.log()).sum().exp()), rel=1e-6)
    assert effective_rank(random.T) == pytest.approx(effective_rank(random), rel=1e-6)


def test_evaluators_that_need_no_labels_run_on_batches_without_targets() -> None:
    model = models.build(vit.TINY).eval()
    batch = Batch(torch.randn(4, 3, 32, 32), torch.zeros(4, 0), tuple("abcd"))
    subject = evaluation.ModelOutputs(model, lambda: [batch], ())
    names = ["rank", "flops"]
    assert not any(map(evaluation.needs_labels, names))
    assert evaluation.evaluate(subject, names)["rank.images"] == 4
