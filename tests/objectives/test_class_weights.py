"""Class weights against a loop over images, scikit-learn and torch, and over micro-batches."""

from typing import Literal

import numpy as np
import pytest
import torch
from oracles import oracle
from torch import nn

from vitkit import models, objectives
from vitkit.config import override
from vitkit.data import Example, Label, Source
from vitkit.models import vit
from vitkit.objectives import supervised


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_class_weights_match_a_loop(kind: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3).double(), torch.tensor([0, 1, 2, 2, 1, 0])
    targets = torch.nn.functional.one_hot(labels, 3).double()
    targets[5] = torch.tensor([0.25, 0.75, 0.0])
    weights = torch.tensor([0.5, 2.0, 0.5]).double()
    expected = 0.0
    for row in range(6):
        weight = sum(float(weights[c] * targets[row, c]) for c in range(3))
        for c in range(3):
            t, l = float(targets[row, c]), logits[row]  # noqa: E741
            smooth = 0.9 * t + 0.1 / 3
            if kind == "softmax":
                term = -smooth * float(l[c] - l.exp().sum().log())
            else:
                s = 1 / (1 + float((-l[c]).exp()))
                term = -(smooth * torch.tensor(s).log() + (1 - smooth) * torch.tensor(1 - s).log())
            expected += weight * float(term) / 6
    loss = supervised.cross_entropy(logits, targets, kind=kind, label_smoothing=0.1, class_weights=weights)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    halves = [
        supervised.cross_entropy(logits[part], targets[part], kind=kind, label_smoothing=0.1, class_weights=weights)
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert loss.item() == pytest.approx(sum(half.item() for half in halves) / 2, rel=1e-9)


def test_invalid_weights_are_rejected() -> None:
    built = supervised.build(supervised.Config(class_weights=(1.0, 1.0, 1.0, 1.0, 4.0)), models.build(vit.TINY))
    assert built.class_weights is not None
    assert built.class_weights.tolist() == [0.625, 0.625, 0.625, 0.625, 2.5]
    with pytest.raises(ValueError, match="there are 2 class_weights, but 5 classes"):
        supervised.build(supervised.Config(class_weights=(1.0, 2.0)), models.build(vit.TINY))
    with pytest.raises(ValueError, match="weights cannot be negative"):
        supervised.Config(class_weights=(1.0, -2.0))


class Labelled(Source):
    """A source of labels without images."""

    def __init__(self, labels: list[Label], classes: int):
        self.labels = labels
        self.classes = tuple(f"class {number}" for number in range(classes))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, **_: object) -> Example:
        raise AssertionError("counting labels must not read images")

    def label(self, index: int) -> Label:
        return self.labels[index]


COUNTS = [50, 7, 3, 30, 10]
LABELS: list[Label] = [label for label, count in enumerate(COUNTS) for _ in range(count)]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_balanced_weights_match_scikit_learn(kind: Literal["softmax", "sigmoid"]) -> None:
    theirs = oracle("sklearn.utils.class_weight").compute_class_weight(
        "balanced", classes=np.arange(5), y=np.array(LABELS)
    )
    config = supervised.Config(loss=kind, class_weights="balanced").fitted(Labelled([*LABELS, -1], 5))
    assert config.class_weights == pytest.approx(theirs / theirs.mean())
    built = supervised.build(config, models.build(vit.TINY))
    assert built.class_weights is not None
    assert built.class_weights.tolist() == pytest.approx(theirs / theirs.mean())
    # Every class has the same total weight over the training images.
    assert np.ptp(np.array(config.class_weights) * COUNTS) == pytest.approx(0, abs=1e-9)


def test_effective_weights_match_their_formula() -> None:
    config = supervised.Config(class_weights="effective").fitted(Labelled(LABELS, 5))
    expected = np.array([(1 - 0.999) / (1 - 0.999**count) for count in COUNTS])
    assert config.class_weights == pytest.approx(expected / expected.mean())


def test_positive_weights_match_pos_weight_of_torch() -> None:
    rows: list[Label] = [(0, 1), (1,), (1, 2), (), 0, (3, 4), -1, (2, 4)]
    config = supervised.Config(loss="sigmoid", positive_weights="balanced").fitted(Labelled(rows, 5))
    assert config.positive_weights == pytest.approx([6 / 2, 5 / 3, 6 / 2, 7 / 1, 6 / 2])
    built = supervised.build(config, models.build(vit.TINY))
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 5), (torch.rand(4, 5) > 0.6).float()
    weights = torch.tensor(config.positive_weights)
    theirs = nn.BCEWithLogitsLoss(pos_weight=weights, reduction="sum")(logits, targets) / 4
    torch.testing.assert_close(
        supervised.cross_entropy(logits, targets, kind="sigmoid", positive_weights=built.positive_weights), theirs
    )


def test_labels_that_cannot_be_balanced_are_rejected() -> None:
    balanced = supervised.Config(class_weights="balanced")
    with pytest.raises(
        ValueError, match=r"cannot balance class 'class 5': it has no training images \(2 classes have none\)"
    ):
        balanced.fitted(Labelled(LABELS, 7))
    with pytest.raises(ValueError, match="class_weights='balanced' needs the training labels"):
        supervised.build(balanced, models.build(vit.TINY))
    with pytest.raises(ValueError, match="positive_weights need loss='sigmoid', not 'softmax'"):
        supervised.Config(positive_weights="balanced")
    every = supervised.Config(loss="sigmoid", positive_weights="balanced")
    with pytest.raises(ValueError, match="cannot balance label 'class 1': every training image has this label"):
        every.fitted(Labelled([(0, 1), (1, 2), (1,)], 3))
    assert supervised.Config().fitted(Labelled([], 3)) == supervised.Config()


def test_named_and_explicit_weights_come_from_overrides_and_json() -> None:
    run = {"objective": "supervised", "class_weights": [1.0, 2.0], "positive_weights": None}
    assert objectives.from_dict(run).class_weights == (1.0, 2.0)
    changed = override(supervised.Config(), {"class_weights": "balanced"})
    assert changed.class_weights == "balanced"
    assert objectives.from_dict(objectives.to_dict(changed)) == changed
    with pytest.raises(ValueError, match="balanced"):
        override(supervised.Config(), {"class_weights": "balancd"})
