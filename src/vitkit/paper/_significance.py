"""Computes means and standard deviations over seeds, and tests the significance of differences."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Trial:
    """Values of one metric for one model variant, with one value per seed."""

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the metric over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The sample standard deviation of the metric over seeds, or NaN for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def percent(self) -> str:
        """The mean and the standard deviation in percent, as text."""
        spread = "" if math.isnan(self.deviation) else f" +- {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def pooled_deviation(trials: Sequence[Trial]) -> float:
    """Returns the standard deviation over seeds, pooled over variants, or NaN if every variant has one seed."""
    several = [trial for trial in trials if len(trial.values) > 1]
    freedom = sum(len(trial.values) - 1 for trial in several)
    if not freedom:
        return math.nan
    return math.sqrt(sum((len(trial.values) - 1) * trial.deviation**2 for trial in several) / freedom)


def significant_difference(trials: Sequence[Trial]) -> float:
    """Returns the smallest significant difference between the mean of a variant and that of the first variant.

    Student's t test with the pooled deviation, at 5 % divided by the number of comparisons (Bonferroni).
    """
    freedom = sum(len(trial.values) - 1 for trial in trials)
    if not freedom or len(trials) < 2:
        return math.nan
    seeds = min(len(trial.values) for trial in trials)
    quantile = student_quantile(1 - SIGNIFICANCE / (2 * (len(trials) - 1)), freedom)
    return quantile * pooled_deviation(trials) * math.sqrt(2 / seeds)


def compare(trials: Sequence[Trial], quantity: str) -> tuple[str, ...]:
    """Returns remarks that list the significant differences of other variants from the first variant."""
    least, first = significant_difference(trials), trials[0]
    if math.isnan(least):
        return (f"{quantity}: differences are not tested with one seed.",)
    different = [trial for trial in trials[1:] if abs(trial.mean - first.mean) > least]
    lines = [
        f"{quantity}: the deviation over {len(first.values)} seeds is {100 * pooled_deviation(trials):.1f} points "
        f"within a variant; a significant difference from '{first.name}' is {100 * least:.1f} points (5 %, "
        f"{len(trials) - 1} comparisons)."
    ]
    lines += [
        f"'{trial.name}' differs from '{first.name}' by {100 * (trial.mean - first.mean):+.1f}." for trial in different
    ]
    same = [trial.name for trial in trials[1:] if trial not in different]
    if same:
        lines.append(f"No significant difference from '{first.name}': {', '.join(same)}.")
    return tuple(lines)


def student_quantile(probability: float, freedom: int) -> float:
    """Returns the quantile of Student's t distribution for a probability above 0.5."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _half(middle, freedom) < probability - 0.5 else (low, middle)
    return (low + high) / 2


def _half(x: float, freedom: int, slices: int = 400) -> float:
    """Returns the probability P(0 < t < x) of Student's t distribution, by Simpson's rule.

    The integration variable is a, with t = sqrt(f) tan(a) and the density cos(a)^(f-1).
    """
    top = math.atan(x / math.sqrt(freedom))
    step = top / slices
    heights = [math.cos(index * step) ** (freedom - 1) for index in range(slices + 1)]
    area = step / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return scale * area
