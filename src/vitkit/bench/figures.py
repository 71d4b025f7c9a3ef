"""Computes the rows of a benchmark table: medians, quartiles, speed ratios and fractions of hardware limits."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitkit.bench import Candidate
from vitkit.config import JsonDict


@dataclass(frozen=True)
class Spread:
    """Median, lower quartile and upper quartile of a set of numbers."""

    median: float
    low: float
    high: float

    def times(self, factor: float) -> "Spread":
        """Returns a copy whose median and quartiles are multiplied by a factor."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def inverse(self) -> "Spread":
        """Returns the median and quartiles of the reciprocals, to convert items per second to seconds per item."""
        return Spread(1.0 / self.median, 1.0 / self.high, 1.0 / self.low)


@dataclass(kw_only=True)
class Row:
    """Row of a benchmark table: the measured speed of one candidate, or the reason why it was not measured.

    `status` is correct, wrong, measured (no outputs to compare), unchecked (no reference to compare with), failed or
    missing.
    """

    candidate: Candidate
    status: str
    reason: str = ""
    rates: list[float] = field(default_factory=list)
    rate: Spread | None = None
    peak_bytes: int = 0
    seconds_to_prepare: float = 0.0
    cpu_utilization: float | None = None
    difference: float | None = None
    ratio: Spread | None = None
    baseline: str = ""
    fraction_of_limit: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the candidate is ranked, which requires a measured speed and no wrong outputs."""
        return self.rate is not None and self.status in ("correct", "measured")

    @property
    def is_vitkit(self) -> bool:
        """Whether the candidate is vitkit, not another library."""
        return self.candidate.peer == "vitkit"


def spread(numbers: Sequence[float]) -> Spread:
    """Returns the median and quartiles of some numbers. Raises ValueError if there are none."""
    if not numbers:
        raise ValueError("the median of an empty list is undefined; pass at least one number")
    if len(numbers) == 1:
        return Spread(numbers[0], numbers[0], numbers[0])
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(middle, low, high)


def paired_ratio(rates: Sequence[float], others: Sequence[float]) -> Spread:
    """Returns the median and quartiles, over rounds, of the ratio of two candidates' rates.

    Both rates of a round are measured one after the other, so that load on the machine cancels out.
    """
    return spread([rate / other for rate, other in zip(rates, others, strict=False)])


def compare(rows: Sequence[Row]) -> None:
    """Sets the `ratio` of each row: its speed divided by that of the fastest peer, preferably in the same precision.

    Peers are all libraries except vitkit. Without peers the ratios are to the first row.
    """
    counted = [row for row in rows if row.counts]
    peers = [row for row in counted if not row.is_vitkit] or counted[:1]
    for row in counted:
        same = [each for each in peers if each.candidate.precision == row.candidate.precision] or peers
        best = max(same, key=_median)
        row.ratio, row.baseline = paired_ratio(row.rates, best.rates), best.candidate.name


def fraction_of_limit(rate: float, work: float, limit: float | None) -> float | None:
    """Returns a measured rate in items per second as a fraction of the hardware limit for the same work."""
    return None if not limit else rate * work / limit


def conclusion(rows: Sequence[Row]) -> str:
    """Returns a sentence that compares vitkit with the fastest peer, or explains why they are not compared."""
    counted = [row for row in rows if row.counts]
    ours = [row for row in counted if row.is_vitkit]
    peers = [row for row in counted if not row.is_vitkit]
    if not ours or not peers:
        return (
            "No ratio: "
            + ("vitkit" if peers else "no peer" if ours else "no candidate")
            + " finished with correct outputs."
        )
    best, best_peer = max(ours, key=_median), max(peers, key=_median)
    ratio = paired_ratio(best.rates, best_peer.rates)
    return (
        f"The fastest of vitkit ({best.candidate.name}) is {ratio.median:.2f} times as fast "
        f"({ratio.low:.2f} to {ratio.high:.2f}) as the fastest peer ({best_peer.candidate.name})."
    )


def to_dict(row: Row) -> JsonDict:
    """Converts a row to a dict for JSON."""
    return {
        "candidate": row.candidate.name,
        "peer": row.candidate.peer,
        "precision": row.candidate.precision,
        "settings": dict(row.candidate.settings),
        "versions": row.versions,
        "status": row.status,
        "reason": row.reason,
        "rate": None if row.rate is None else vars(row.rate),
        "rates": row.rates,
        "ratio": None if row.ratio is None else vars(row.ratio),
        "baseline": row.baseline,
        "difference": row.difference,
        "peak_bytes": row.peak_bytes,
        "fraction_of_limit": row.fraction_of_limit,
        "seconds_to_prepare": row.seconds_to_prepare,
        "cpu_utilization": row.cpu_utilization,
        "notes": row.notes,
    }


def _median(row: Row) -> float:
    return row.rate.median if row.rate else 0.0
