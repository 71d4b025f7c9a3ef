"""Mean average precision equals scikit-learn's, with ties and empty classes."""

import numpy as np
import pytest
import torch
from oracles import oracle

from vitkit import evaluation
from vitkit.evaluation import ModelOutputs, Predictions, average_precision


class FixedSubject(ModelOutputs):
    """A subject with given predictions."""

    def __init__(self, known: Predictions):
        self.known = known
        self.classes = tuple(map(str, range(known.targets.shape[1])))

    @property
    def predictions(self) -> Predictions:  # type: ignore[override]
        return self.known


def test_average_precision_equals_scikit_learn() -> None:
    metrics = oracle("sklearn.metrics")
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.integers(-4, 5, (60, 5))).float()  # many ties
    logits[:, 4] = torch.from_numpy(random.standard_normal(60)).float()
    targets = torch.from_numpy(random.random((60, 6)) < [0.5, 0.1, 0.9, 0.3, 0.02, 0.0]).float()
    targets[0, 4] = 1.0
    logits = torch.cat([logits, torch.zeros(60, 1)], dim=1)
    theirs = metrics.average_precision_score(targets[:, :5].numpy(), logits[:, :5].numpy(), average=None)
    ours = average_precision.average_precision(logits[:, :5], targets[:, :5] > 0)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    known = FixedSubject(Predictions(logits=logits, targets=targets, keys=tuple(map(str, range(60)))))
    numbers = evaluation.evaluate(known, ["average_precision"])
    assert numbers["average_precision.mean"] == pytest.approx(theirs.mean())
    assert numbers["average_precision.worst"] == pytest.approx(theirs.min())
    weighted = metrics.average_precision_score(targets[:, :5].numpy(), logits[:, :5].numpy(), average="weighted")
    assert numbers["average_precision.weighted"] == pytest.approx(weighted, rel=1e-6)
    unlabelled = FixedSubject(Predictions(logits=logits, targets=torch.zeros_like(targets), keys=known.known.keys))
    with pytest.raises(ValueError, match="none of the images has a label"):
        evaluation.evaluate(unlabelled, ["average_precision"])
