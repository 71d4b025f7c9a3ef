"""Student's t equals its tables, and comparisons report significant differences only."""

import math

import numpy as np
import pytest

from vitkit.paper import _significance
from vitkit.paper._significance import Trial


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 1, 12.7062), (0.975, 4, 2.77645), (0.975, 10, 2.22814), (0.995, 6, 3.70743), (0.975, 100, 1.98397)],
)
def test_student_quantiles(probability: float, freedom: int, quantile: float) -> None:
    assert _significance.student_quantile(probability, freedom) == pytest.approx(quantile, rel=1e-4)


def test_the_deviation_is_pooled() -> None:
    trials = [Trial("a", (1.0, 2.0, 3.0)), Trial("b", (10.0, 10.0, 13.0))]
    assert _significance.pooled_deviation(trials) == pytest.approx(math.sqrt((2 * 1.0 + 2 * 3.0) / 4))
    # Two means over three seeds, 4 degrees of freedom, one comparison.
    least = 2.77645 * _significance.pooled_deviation(trials) * math.sqrt(2 / 3)
    assert _significance.significant_difference(trials) == pytest.approx(least, rel=1e-4)


def test_more_comparisons_need_larger_differences() -> None:
    trials = [Trial(str(number), (0.1, 0.2, 0.3)) for number in range(9)]
    few, many = _significance.significant_difference(trials[:2]), _significance.significant_difference(trials)
    # More variants have more degrees of freedom; with equal degrees, more comparisons need a larger difference.
    assert many > _significance.student_quantile(0.975, 18) * 0.1 * math.sqrt(2 / 3)
    assert few > 0


def test_a_comparison_lists_significant_differences_only() -> None:
    first, near, far = Trial("a", (0.50, 0.52, 0.54)), Trial("b", (0.51, 0.53, 0.55)), Trial("c", (0.9, 0.92, 0.94))
    lines = _significance.compare([first, near, far], "Accuracy")
    assert "'c' differs from 'a' by +40.0." in lines
    assert lines[-1] == "No significant difference from 'a': b."
    assert "2.0 points within a variant" in lines[0]


def test_the_false_positive_rate_of_noise_is_low() -> None:
    random = np.random.default_rng(0)
    false_positives = 0
    for _ in range(60):
        trials = [Trial(str(each), tuple(random.normal(0.5, 0.02, 3))) for each in range(5)]
        least = _significance.significant_difference(trials)
        false_positives += any(abs(trial.mean - trials[0].mean) > least for trial in trials[1:])
    assert false_positives <= 8  # of 60, where 3 are expected


def test_one_seed_is_not_tested() -> None:
    (line,) = _significance.compare([Trial("a", (0.1,)), Trial("b", (0.9,))], "accuracy")
    assert line == "accuracy: differences are not tested with one seed."
    assert Trial("a", (0.123,)).percent == "12.3"
    assert Trial("a", (0.1, 0.2)).percent == "15.0 +- 7.1"
