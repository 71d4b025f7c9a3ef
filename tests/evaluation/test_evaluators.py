"""Evaluators equal scikit-learn and hand-computed values; every evaluator satisfies the contract."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score, log_loss, recall_score, top_k_accuracy_score

from vitkit import evaluation
from vitkit.evaluation import ModelOutputs, Predictions, confusion, top1
from vitkit.models import vit
from vitkit.plugins.contracts import evaluator as contract

CLASSES = tuple("abcdefgh")


def random_predictions(num: int = 300) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 7, (num,), generator=generator)  # class h never occurs
    logits = torch.randn(num, 8, generator=generator) + 2 * torch.eye(8)[truth]
    return Predictions(logits=logits, targets=torch.eye(8)[truth], keys=tuple(map(str, range(num))))


class FixedSubject(ModelOutputs):
    """A subject with given predictions."""

    def __init__(self, known: Predictions):
        self.classes = CLASSES
        self.known = known

    @property
    def predictions(self) -> Predictions:  # type: ignore[override]
        return self.known


def test_top1_equals_scikit_learn() -> None:
    known = random_predictions()
    truth, scores = known.targets.argmax(dim=1).numpy(), known.scores.double().numpy()
    numbers = evaluation.evaluate(FixedSubject(known), ["top1"])
    assert numbers["top1.accuracy"] == pytest.approx((scores.argmax(axis=1) == truth).mean())
    assert numbers["top1.top5"] == pytest.approx(top_k_accuracy_score(truth, scores, k=5, labels=range(8)))
    normal = scores / scores.sum(axis=1, keepdims=True)
    assert numbers["top1.loss"] == pytest.approx(log_loss(truth, normal, labels=range(8)), rel=1e-5)
    assert numbers["top1.images"] == 300


def test_confusion_equals_scikit_learn() -> None:
    known = random_predictions()
    truth, guess = known.targets.argmax(dim=1).numpy(), known.logits.argmax(dim=1).numpy()
    counts = confusion.matrix(known)
    np.testing.assert_array_equal(counts.numpy(), confusion_matrix(truth, guess, labels=range(8)))
    numbers = evaluation.evaluate(FixedSubject(known), ["confusion"])
    assert numbers["confusion.mean_recall"] == pytest.approx(
        recall_score(truth, guess, labels=range(7), average="macro")
    )
    f1 = f1_score(truth, guess, average=None, labels=range(7))
    assert numbers["confusion.mean_f1"] == pytest.approx(f1.mean())
    assert confusion.per_class(counts, CLASSES)[7].images == 0


def test_multi_label_accuracy_excludes_images_without_a_label() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 2.0, 1.0], [9.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    known = Predictions(logits=logits, targets=targets, keys=tuple("wxyz"))
    numbers = top1.evaluate(FixedSubject(known))
    assert numbers["accuracy"] == pytest.approx(1 / 3)
    assert numbers["images"] == 3
    assert "top5" not in numbers
    assert top1.hits(known, 2).tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="none of the images has a label"):
        top1.evaluate(FixedSubject(Predictions(logits=logits, targets=targets * 0, keys=tuple("wxyz"))))


# The label file for evaluators with an argument.
LABEL_FILE = {"a": [0], "b": [1, 2], "c": [], "d": [0], "e": [1], "f": [2]}


@pytest.mark.parametrize("name", evaluation.evaluators())
def test_every_evaluator_keeps_the_contract(name: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(LABEL_FILE))
    arguments = {"real": tmp_path / "labels.json", "segmentation": tmp_path}
    subject = contract.Subject(f"{name}:{arguments[name]}" if name in arguments else name)
    object_mask = np.zeros(vit.TINY.image_size, dtype=np.uint8)
    object_mask[: object_mask.shape[0] // 2] = 1
    Image.fromarray(object_mask).save(tmp_path / "a.png")
    for check in contract.CHECKS:
        check(subject)


def test_unknown_evaluators_and_wrong_arguments_raise() -> None:
    with pytest.raises(ValueError, match="unknown evaluator 'top'; did you mean 'top1'"):
        evaluation.evaluator("top")
    with pytest.raises(ValueError, match="unknown evaluator 'vtab'"):
        evaluation.evaluator("vtab")
    with pytest.raises(ValueError, match="'top1' takes no argument, but got 'top1:5'"):
        evaluation.evaluator("top1:5")
    with pytest.raises(ValueError, match="'subset:' has no argument"):
        evaluation.evaluator("subset:")
    with pytest.raises(ValueError, match="'real' needs an argument; write real:LABELS"):
        evaluation.evaluator("real")


def test_metrics_are_shown_as_percent_or_as_numbers() -> None:
    shown = {
        ("top1.accuracy", 0.8): "80.00%",
        ("real:labels.top5", 1.0): "100.00%",
        ("f1_tuned.micro", 0.125): "12.50%",
        ("top1.loss", 0.5): "0.5",
        ("top1.images", 12345.0): "12,345",
        ("throughput.float32_images_per_second", 98.76543): "98.77",
        ("regression.r2", -1.0): "-1",
    }
    assert {given: evaluation.formatted(*given) for given in shown} == shown
    # Those of a model whose training has diverged.
    assert evaluation.formatted("top1.loss", float("nan")) == "nan"
    assert evaluation.formatted("top1.loss", float("inf")) == "inf"
