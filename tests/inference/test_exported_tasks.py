"""Exports store the task, so that they predict the same labels and values as the model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_exporters import LIBRARIES, checkpoint, needs

import vitkit
from vitkit import checkpoints
from vitkit.cli import main
from vitkit.inference import runtimes, top_predictions
from vitkit.task import Task

TASKS = {
    "labels": Task(problem_type="multi_label_classification", threshold=(0.1, 0.5, 0.9)),
    "numbers": Task(problem_type="regression", target_mean=(35.0, -2.0, 1e6), target_std=(12.5, 0.01, 3.0)),
}


# The fast case has a scale and an offset; the others take seconds of tracing each.
CASES = [
    pytest.param(
        target, task, marks=[pytest.mark.slow] * ((target, name) != ("onnx", "numbers")), id=f"{target}-{name}"
    )
    for target in LIBRARIES
    for name, task in TASKS.items()
]


@pytest.mark.parametrize(("target", "task"), CASES)
def test_an_export_predicts_the_same(
    target: str, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(target)
    made = checkpoint(num_classes=3, task=task)
    checkpoints.save(made, tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    runtimes.export(made, tmp_path / "out", to=target)
    opened = vitkit.load(tmp_path / "out")
    assert opened.config.task == task
    ((_, expected),) = vitkit.load(tmp_path / "model").classify(tmp_path / "x.png", precision="float32")
    ((_, found),) = opened.classify(tmp_path / "x.png")
    assert [each.label for each in found] == [each.label for each in expected]
    assert [each.predicted for each in found] == [each.predicted for each in expected]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], rel=1e-4, abs=1e-4)
    assert main(["classify", str(tmp_path / "out"), str(tmp_path / "x.png"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["predictions"]
    key = "value" if task.regression else "score"
    assert [each[key] for each in printed] == pytest.approx([each.score for each in found])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["model"]["task"]["threshold"] = [0.5, 0.5]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"task\.threshold has 2 numbers, but the model has 3 outputs"):
        vitkit.load(tmp_path / "out")


def test_predictions_follow_the_task() -> None:
    logits, labels = np.array([-1.0, 4.0, 0.1], np.float32), ("a", "b", "c")
    found = top_predictions(logits, labels, 5, task=TASKS["labels"])
    assert [(each.label, each.predicted) for each in found] == [("b", True), ("c", False), ("a", True)]
    found = top_predictions(logits, labels, 5, task=TASKS["labels"], threshold=0.6)
    assert [each.label for each in found] == ["b"]
    found = top_predictions(logits, labels, 2, task=TASKS["numbers"])
    assert [(each.label, each.value) for each in found] == [
        ("a", pytest.approx(22.5)),
        ("b", pytest.approx(-1.96)),
    ]
    for task in (Task(), TASKS["numbers"]):
        with pytest.raises(ValueError, match="a threshold needs a multi-label model"):
            top_predictions(logits, labels, 2, task=task, threshold=0.5)
