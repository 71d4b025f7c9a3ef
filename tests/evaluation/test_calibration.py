"""Calibration equals a loop over images, and the temperature equals scipy's minimum."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from vitkit.evaluation import Predictions
from vitkit.evaluation import calibration as c


def random_predictions(num: int = 500, classes: int = 7, sharpness: float = 3.0) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(num, classes, generator=generator)
    # Labels are sampled at temperature 2, so the logits are overconfident.
    truth = torch.multinomial((logits / 2).softmax(1), 1, generator=generator)[:, 0]
    targets = torch.nn.functional.one_hot(truth, classes).float()
    return Predictions(logits=logits, targets=targets, keys=tuple(map(str, range(num))))


class ModelOutputs:
    def __init__(self, predictions: Predictions):
        self.predictions = predictions


def test_expected_calibration_error_equals_its_loop() -> None:
    predictions = random_predictions()
    scores = predictions.scores.double().numpy()
    truth = predictions.targets.argmax(1).numpy()
    sums = np.zeros((15, 3))
    for score, true in zip(scores, truth, strict=True):
        for index in range(15):
            if index / 15 < score.max() <= (index + 1) / 15:
                sums[index] += [1, score.max(), score.argmax() == true]
    filled = sums[sums[:, 0] > 0]
    gaps = np.abs(filled[:, 1] - filled[:, 2]) / filled[:, 0]
    numbers = c.evaluate(ModelOutputs(predictions))  # type: ignore[arg-type]
    assert numbers["ece"] == pytest.approx((gaps * filled[:, 0]).sum() / 500, abs=1e-12)
    assert numbers["mce"] == pytest.approx(gaps.max(), abs=1e-12)
    one_hot = predictions.targets.double().numpy()
    assert numbers["brier"] == pytest.approx(((scores - one_hot) ** 2).sum(1).mean(), abs=1e-6)
    assert numbers["nll"] == pytest.approx(-np.log(scores[np.arange(500), truth]).mean(), abs=1e-6)
    assert sum(each.images for each in c.bins(predictions)) == 500


def test_temperature_minimizes_the_loss_and_recovers_the_true_temperature() -> None:
    predictions = random_predictions(num=4000)
    logits, truth = predictions.logits.double(), predictions.targets.argmax(1)
    result = minimize_scalar(
        lambda t: torch.nn.functional.cross_entropy(logits / np.exp(t), truth).item(), bounds=(-4, 4), method="bounded"
    )
    assert c.temperature(predictions) == pytest.approx(np.exp(result.x), rel=1e-3)
    assert c.temperature(predictions) == pytest.approx(2.0, rel=0.1)


def test_images_without_a_label_are_excluded() -> None:
    predictions = random_predictions(num=20)
    targets = predictions.targets.clone()
    targets[::2] = 0
    labelled = c.labelled(Predictions(predictions.logits, targets, predictions.keys))
    assert labelled.keys == predictions.keys[1::2]
    with pytest.raises(ValueError, match=r"none of the images has a label"):
        c.labelled(Predictions(predictions.logits, torch.zeros_like(targets), predictions.keys))
