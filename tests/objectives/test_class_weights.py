"""Class weights against a loop over pictures, and that parts of a batch add up to the whole."""

import pytest
import torch

from vitkit import models
from vitkit.models import vit
from vitkit.objectives import supervised


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_weights_by_hand(kind: str) -> None:
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
    found = supervised.cross_entropy(logits, targets, kind=kind, label_smoothing=0.1, class_weights=weights)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    halves = [
        supervised.cross_entropy(logits[part], targets[part], kind=kind, label_smoothing=0.1, class_weights=weights)
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert found.item() == pytest.approx(sum(half.item() for half in halves) / 2, rel=1e-9)


def test_weights_that_fit_nothing_are_refused() -> None:
    built = supervised.build(supervised.Config(class_weights=(1.0, 1.0, 1.0, 1.0, 4.0)), models.build(vit.TINY))
    assert built.class_weights is not None
    assert built.class_weights.tolist() == [0.625, 0.625, 0.625, 0.625, 2.5]
    with pytest.raises(ValueError, match="there are 2 class_weights, but 5 classes"):
        supervised.build(supervised.Config(class_weights=(1.0, 2.0)), models.build(vit.TINY))
    with pytest.raises(ValueError, match="none may be below 0"):
        supervised.Config(class_weights=(1.0, -2.0))
