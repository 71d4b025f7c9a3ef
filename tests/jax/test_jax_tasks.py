"""The Flax model has the task of its checkpoint, and predicts the same labels and values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import oracle

oracle("flax")

import dataclasses  # noqa: E402

import vitkit  # noqa: E402
from vitkit import checkpoints, models  # noqa: E402
from vitkit import jax as flax  # noqa: E402
from vitkit.data.processor import Processor  # noqa: E402
from vitkit.models import vit  # noqa: E402
from vitkit.task import Task  # noqa: E402

TASKS = {
    "labels": Task(problem_type="multi_label_classification", threshold=0.25),
    "numbers": Task(problem_type="regression", target_mean=(35.0, -2.0), target_std=(12.5, 0.01)),
}


def saved(task: Task, folder: Path, to: str) -> checkpoints.Checkpoint:
    torch.manual_seed(0)
    config = dataclasses.replace(vit.TINY, num_classes=2, task=task, norm_eps=1e-6)
    model = models.build(config).eval()
    with torch.no_grad():
        model.get_parameter("head.weight").normal_()
    made = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("age", "width"))
    checkpoints.save(made, folder, to=to)
    return made


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("to", ["huggingface", "vitkit"])
def test_flax_checkpoints_have_the_task(task: Task, to: str, tmp_path: Path) -> None:
    made = saved(task, tmp_path / "a", to)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = task.scores(made.model(images).double().numpy())
    loaded = flax.load(tmp_path / "a")
    assert loaded.config.task == task
    outputs = loaded.model().apply({"params": loaded.params}, np.moveaxis(images.numpy(), 1, -1))
    np.testing.assert_allclose(loaded.config.task.scores(np.asarray(outputs)), expected, rtol=1e-3, atol=1e-3)
    flax.save(tmp_path / "b", loaded)
    assert vitkit.load(tmp_path / "b").config.task == task
    with pytest.raises(ValueError, match="npz cannot store the task of the model"):
        flax.save(tmp_path / "c.npz", loaded)
    assert loaded.with_head(3).config.task == task.for_new_head()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("to", ["huggingface", "vitkit"])
def test_the_flax_class_predicts_values_and_saves_the_problem_type(task: Task, to: str, tmp_path: Path) -> None:
    made = saved(task, tmp_path / "a", to)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = task.scores(made.model(images).double().numpy())
    model = vitkit.FlaxViTForImageClassification.from_pretrained(tmp_path / "a")
    logits = np.asarray(model(pixel_values=images.numpy()).logits)
    found = logits if task.regression else task.scores(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    model.save_pretrained(tmp_path / "b")
    assert vitkit.load(tmp_path / "b").config.task.problem_type == task.problem_type
