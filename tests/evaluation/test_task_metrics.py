"""Metrics of independent labels and of numbers equal scikit-learn and naive loops."""

import dataclasses

import numpy as np
import pytest
import torch
from oracles import oracle

from vitkit import evaluation
from vitkit.evaluation import ModelOutputs, Predictions, calibration, f1, regression, top1
from vitkit.task import SINGLE_LABEL, Task

NAMES = ("cat", "dog", "fox", "owl")
LABELS = Task(problem_type="multi_label_classification", threshold=(0.2, 0.5, 0.7, 0.5))
NUMBERS = Task(problem_type="regression", target_mean=(10.0, -1.0), target_std=(3.0, 0.5))


class FixedSubject(ModelOutputs):
    """A subject with given predictions."""

    def __init__(self, known: Predictions, classes: tuple[str, ...] = NAMES):
        self.known = known
        self.task = known.task
        self.classes = classes

    @property
    def predictions(self) -> Predictions:  # type: ignore[override]
        return self.known


def random_labels(num: int = 200) -> Predictions:
    """Predictions of independent labels; no image has the last one, and some have none."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(num, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.1, 0.0])).float()
    logits = 2 * targets - 1 + 1.5 * torch.randn(num, 4, generator=generator)
    return Predictions(logits=logits, targets=targets, keys=tuple(map(str, range(num))), task=LABELS)


def random_numbers(num: int = 50) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num, 2, generator=generator)
    noise = torch.randn(num, 2, generator=generator)
    targets = NUMBERS.scores(logits) + noise
    return Predictions(logits=logits, targets=targets, keys=tuple(map(str, range(num))), task=NUMBERS)


def test_f1_equals_scikit_learn_at_the_thresholds() -> None:
    metrics = oracle("sklearn.metrics")
    known = random_labels()
    chosen = (1 / (1 + np.exp(-known.logits.double().numpy()))) >= np.array(LABELS.threshold)
    truth = known.targets.numpy() > 0
    numbers = evaluation.evaluate(FixedSubject(known), ["f1"])
    options = {"zero_division": 0.0}
    assert numbers["f1.micro"] == pytest.approx(metrics.f1_score(truth, chosen, average="micro", **options))
    each = metrics.f1_score(truth[:, :3], chosen[:, :3], average="macro", **options)
    assert numbers["f1.macro"] == pytest.approx(each)
    assert numbers["f1.recall"] == pytest.approx(metrics.recall_score(truth, chosen, average="micro"))
    assert numbers["f1.precision"] == pytest.approx(metrics.precision_score(truth, chosen, average="micro", **options))
    assert numbers["f1.exact"] == pytest.approx(metrics.accuracy_score(truth, chosen))
    rows = f1.per_label(known, NAMES)
    assert [(row.name, row.threshold, row.images) for row in rows][3] == ("owl", 0.5, 0)
    with pytest.raises(ValueError, match="none of the images has a label"):
        f1.evaluate(FixedSubject(dataclasses.replace(known, targets=known.targets * 0)))


def test_f1_of_one_class_per_image_is_the_accuracy() -> None:
    known = dataclasses.replace(random_labels(), targets=torch.eye(4)[torch.arange(200) % 4], task=SINGLE_LABEL)
    numbers = evaluation.evaluate(FixedSubject(known), ["f1", "top1"])
    assert numbers["f1.micro"] == pytest.approx(numbers["top1.accuracy"])


@pytest.mark.parametrize("ties", [False, True])
def test_the_best_thresholds_are_those_of_a_loop(ties: bool) -> None:
    known = random_labels(60)
    if ties:
        known = dataclasses.replace(known, logits=known.logits.round())
    scores, truth = known.task.scores(known.logits.double()).numpy(), known.targets.numpy() > 0
    found = f1.best_thresholds(known)
    assert found[3] == 0.5  # no image has the label

    def score(label: int, threshold: float) -> float:
        chosen, true = scores[:, label] >= threshold, truth[:, label]
        return 2 * (chosen & true).sum() / (chosen.sum() + true.sum())

    for label in range(3):
        limits = np.unique(scores[:, label])
        candidates = [0.5, *((limits[1:] + limits[:-1]) / 2), limits[0] / 2]
        best = max(score(label, limit) for limit in candidates)
        assert score(label, found[label]) == pytest.approx(best)
    tuned = dataclasses.replace(known, task=known.task.with_threshold(found))
    assert f1.evaluate(FixedSubject(tuned))["macro"] >= f1.evaluate(FixedSubject(known))["macro"]
    with pytest.raises(ValueError, match="only for multi-label models"):
        f1.best_thresholds(dataclasses.replace(known, task=SINGLE_LABEL))


def test_perfect_scores_keep_the_threshold_of_one_half() -> None:
    targets = torch.tensor([[1.0], [0.0], [1.0]])
    known = Predictions(logits=8 * targets - 4, targets=targets, keys=("a", "b", "c"), task=LABELS.for_new_head())
    assert f1.best_thresholds(known) == (0.5,)


def test_calibration_of_independent_labels_is_that_of_every_pair() -> None:
    known = random_labels()
    scores = (1 / (1 + np.exp(-known.logits.double().numpy()))).ravel()
    truth = known.targets.numpy().ravel() > 0
    confidence, correct = np.maximum(scores, 1 - scores), (scores >= 0.5) == truth
    expected = 0.0
    for index in range(15):
        here = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if here.any():
            expected += abs(confidence[here].mean() - correct[here].mean()) * here.mean()
    numbers = evaluation.evaluate(FixedSubject(known), ["calibration", "top1"])
    assert numbers["calibration.ece"] == pytest.approx(expected, abs=1e-6)
    assert numbers["calibration.brier"] == pytest.approx(((scores - truth) ** 2).mean(), abs=1e-6)
    likelihood = np.where(truth, np.log(scores), np.log1p(-scores))
    assert numbers["calibration.nll"] == pytest.approx(-likelihood.mean(), abs=1e-6)
    scaled = calibration.nll(known, known.logits.double() / numbers["calibration.temperature"])
    for factor in (0.97, 1.03):
        assert scaled <= calibration.nll(known, known.logits.double() / (factor * numbers["calibration.temperature"]))
    labelled = known.targets.sum(dim=1) > 0
    losses = -likelihood.reshape(-1, 4).sum(axis=1)[labelled.numpy()]
    assert numbers["top1.loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert top1.hits(known, 1).shape == (200,)


def test_regression_metrics_equal_scikit_learn_in_the_units_of_the_targets() -> None:
    metrics = oracle("sklearn.metrics")
    known = random_numbers()
    values = known.logits.double().numpy() * [3.0, 0.5] + [10.0, -1.0]
    truth = known.targets.double().numpy()
    numbers = evaluation.evaluate(FixedSubject(known, ("age", "width")), ["regression"])
    assert numbers["regression.mae"] == pytest.approx(metrics.mean_absolute_error(truth, values))
    assert numbers["regression.r2"] == pytest.approx(metrics.r2_score(truth, values))
    errors = np.sqrt(((values - truth) ** 2).mean(axis=0))
    assert numbers["regression.rmse"] == pytest.approx(errors.mean())
    assert numbers["regression.width rmse"] == pytest.approx(errors[1])
    assert numbers["regression.images"] == 50
    constant = dataclasses.replace(known, targets=torch.ones(50, 2))
    assert [each.r2 for each in regression.per_target(constant, ("a", "b"))] == [0.0, 0.0]


@pytest.mark.parametrize("name", ["top1", "confusion", "calibration", "average_precision", "f1", "subset"])
def test_evaluators_of_classes_reject_numbers(name: str) -> None:
    subject = FixedSubject(random_numbers(), ("age", "width"))
    with pytest.raises(ValueError, match=rf"the evaluator '{name}' is for .*task is regression; use regression"):
        evaluation.evaluate(subject, [name])


@pytest.mark.parametrize("task", [SINGLE_LABEL, LABELS, NUMBERS], ids=lambda task: task.problem_type)
def test_the_default_evaluators_fit_their_task(task: Task) -> None:
    evaluation.check_task(evaluation.default_evaluators(task), task)
    with pytest.raises(ValueError, match="the evaluator"):
        evaluation.check_task(["top1" if task.regression else "regression"], task)
