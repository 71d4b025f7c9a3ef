"""`Task`: scores equal hand-computed values, and nothing else decodes logits."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import vitkit
from vitkit import config as configs
from vitkit import models
from vitkit.task import PROBLEM_TYPES, SINGLE_LABEL, Task, apply

ROOT = Path(vitkit.__file__).parent
# Where a softmax or sigmoid is not the decoding of a prediction: attention, activations, losses and their gradients.
ALLOWED = {
    "task.py": "decodes logits",
    "layers/": "attention and activations",
    "kernels/": "attention",
    "inference/engine/": "attention",
    "jax/layers.py": "attention",
    "jax/step.py": "losses",
    "objectives/": "losses",
    "plugins/templates/objective.py": "losses",
    "evaluation/linear.py": "the gradient of the loss of its heads",
}
NAMES = {"softmax", "log_softmax", "sigmoid", "logsigmoid", "expit", "softmax_", "sigmoid_"}
LOGITS = np.array([[1.0, 3.0, -2.0], [-800.0, 0.0, 800.0]])


def test_only_the_task_decodes_logits() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(tuple(ALLOWED)):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            word = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if word in NAMES:
                wrong.append(f"{name}:{node.lineno} calls {word}")
    assert not wrong, "decode logits with the task of the model (vitkit.task)"


@pytest.mark.parametrize("family", models.families())
def test_every_config_has_a_task_that_survives_json(family: str) -> None:
    tiny = models.family(family).TINY
    assert tiny.task == SINGLE_LABEL
    for changes in (
        {"task.problem_type": "multi_label_classification", "task.threshold": "0.25"},
        {"task.problem_type": "regression", "task.target_mean": [1, 2], "task.target_std": [3, 4]},
    ):
        config = configs.override(tiny, {"num_classes": 2, **changes})
        assert models.from_dict(models.to_dict(config)) == config
        assert config.task.problem_type == changes["task.problem_type"]


def test_a_model_with_statistics_of_another_number_of_outputs_is_rejected() -> None:
    task = {"task.problem_type": "multi_label_classification", "task.threshold": [0.1, 0.2]}
    config = configs.override(models.family("vit").TINY, task)
    with pytest.raises(ValueError, match=r"task\.threshold has 2 numbers, but the model has 5 outputs"):
        models.build(config)


@pytest.mark.parametrize("family", models.families())
def test_a_new_head_keeps_only_the_problem_type(family: str) -> None:
    config = configs.override(
        models.family(family).TINY,
        {"num_classes": 1, "task": Task(problem_type="regression", target_mean=(1.0,), target_std=(2.0,))},
    )
    model = models.build(config)
    model.reset_head(3)
    assert model.config.task == Task(problem_type="regression")


def test_scores_equal_their_formulas_in_numpy_and_torch() -> None:
    tensor = torch.from_numpy(LOGITS)
    shifted = np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True))
    softmax = shifted / shifted.sum(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-LOGITS))
    value = Task(problem_type="regression", target_mean=(1.0, 2.0, 3.0), target_std=(10.0, 0.1, 1.0))
    for task, expected in (
        (SINGLE_LABEL, softmax),
        (Task(problem_type="multi_label_classification"), sigmoid),
        (value, LOGITS * [10.0, 0.1, 1.0] + [1.0, 2.0, 3.0]),
        (Task(problem_type="regression"), LOGITS),
    ):
        np.testing.assert_allclose(task.scores(LOGITS), expected, atol=1e-12)
        np.testing.assert_allclose(task.scores(tensor).numpy(), expected, atol=1e-12)
        assert task.scores(tensor.bfloat16()).dtype == torch.float32
        np.testing.assert_allclose(task.scores(LOGITS[0]), expected[0], atol=1e-12)
    torch.testing.assert_close(value.standardized(value.scores(tensor)), tensor)


@pytest.mark.parametrize("problem", PROBLEM_TYPES)
def test_one_output_is_a_sigmoid_unless_it_is_a_number(problem: str) -> None:
    task = configs.from_dict(Task, {"problem_type": problem})
    expected = np.array([2.0]) if problem == "regression" else 1 / (1 + np.exp(np.array([-2.0])))
    np.testing.assert_allclose(task.scores(np.array([2.0])), expected)
    assert task.function(1) == ("none" if problem == "regression" else "sigmoid")


def test_decisions_are_the_best_class_or_the_labels_above_their_threshold() -> None:
    each = Task(problem_type="multi_label_classification", threshold=(0.5, 0.99, 0.1))
    for task, expected in (
        (SINGLE_LABEL, [[False, True, False], [False, False, True]]),
        (Task(problem_type="multi_label_classification"), [[True, True, False], [False, True, True]]),
        (each, [[True, False, True], [False, False, True]]),
    ):
        assert task.decisions(LOGITS).tolist() == expected
        assert task.decisions(torch.from_numpy(LOGITS)).tolist() == expected
    with pytest.raises(ValueError, match="a regression model predicts numbers"):
        Task(problem_type="regression").decisions(LOGITS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": "ranking"}, "'task.problem_type' is 'ranking'; expected one of"),
        ({"threshold": 1.5}, "threshold is 1.5; each threshold must be between 0 and 1"),
        ({"threshold": []}, r"threshold is \(\)"),
        ({"problem_type": "regression", "target_mean": [1.0]}, "set both, one number per output"),
        ({"target_mean": [1.0], "target_std": [1.0]}, "need problem_type='regression'"),
        ({"problem_type": "regression", "target_mean": [1.0], "target_std": [0.0]}, "finite and above 0"),
        ({"problem_type": "regression", "target_mean": [float("nan")], "target_std": [1.0]}, "must be finite"),
    ],
)
def test_invalid_tasks_raise(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configs.from_dict(Task, fields, where="task")


def test_the_functions_are_those_of_transformers_pipelines() -> None:
    np.testing.assert_allclose(apply("softmax", np.array([5.0])), [1.0])
    np.testing.assert_allclose(apply("none", np.array([5.0], np.float32)), [5.0])
