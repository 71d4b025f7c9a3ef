"""What seeds explain: means with their deviation, and the difference that two variants must have to be told apart."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05


@dataclass(frozen=True)
class Trial:
    """The same measurement of one variant under several seeds."""

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds (n - 1); not a number for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def percent(self) -> str:
        """Mean and deviation in percent, as people read them."""
        spread = "" if math.isnan(self.deviation) else f" +- {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def pooled(trials: Sequence[Trial]) -> float:
    """The standard deviation within variants, of all together; not a number where every variant has one seed."""
    several = [trial for trial in trials if len(trial.values) > 1]
    freedom = sum(len(trial.values) - 1 for trial in several)
    if not freedom:
        return math.nan
    return math.sqrt(sum((len(trial.values) - 1) * trial.deviation**2 for trial in several) / freedom)


def least_difference(trials: Sequence[Trial]) -> float:
    """How far the mean of a variant must be from the first's to be no accident, at 5 % for all comparisons together.

    Student's t with the deviation pooled over variants, at 5 % divided by the number of comparisons (Bonferroni).
    """
    freedom = sum(len(trial.values) - 1 for trial in trials)
    if not freedom or len(trials) < 2:
        return math.nan
    seeds = min(len(trial.values) for trial in trials)
    quantile = student_quantile(1 - LEVEL / (2 * (len(trials) - 1)), freedom)
    return quantile * pooled(trials) * math.sqrt(2 / seeds)


def verdict(trials: Sequence[Trial], what: str) -> tuple[str, ...]:
    """What may be said of the variants against the first of them, and no more."""
    least, first = least_difference(trials), trials[0]
    if math.isnan(least):
        return (f"One seed says nothing of the spread of {what}: no difference is claimed.",)
    apart = [trial for trial in trials[1:] if abs(trial.mean - first.mean) > least]
    lines = [
        f"{what}: the deviation over {len(first.values)} seeds is {100 * pooled(trials):.1f} points within a variant; "
        f"to differ from '{first.name}' takes {100 * least:.1f} points (5 %, {len(trials) - 1} comparisons)."
    ]
    lines += [
        f"'{trial.name}' differs from '{first.name}' by {100 * (trial.mean - first.mean):+.1f}." for trial in apart
    ]
    same = [trial.name for trial in trials[1:] if trial not in apart]
    if same:
        lines.append(f"Not told apart from '{first.name}': {', '.join(same)}.")
    return tuple(lines)


def student_quantile(probability: float, freedom: int) -> float:
    """Where Student's t distribution reaches that probability (above one half): the density is summed and bisected."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _half(middle, freedom) < probability - 0.5 else (low, middle)
    return (low + high) / 2


def _half(x: float, freedom: int, slices: int = 400) -> float:
    """The probability of t between 0 and x. With t = sqrt(f) tan(a) the density is cos(a)^(f-1): Simpson over a."""
    top = math.atan(x / math.sqrt(freedom))
    step = top / slices
    heights = [math.cos(index * step) ** (freedom - 1) for index in range(slices + 1)]
    area = step / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return scale * area
