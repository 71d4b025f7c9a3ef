"""Medians, spreads, ratios and verdicts of a section: from what was measured to the rows of a table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vitkit.bench import Contender


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles about it."""

    median: float
    low: float
    high: float

    def times(self, factor: float) -> "Spread":
        """Every number multiplied."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def inverse(self) -> "Spread":
        """The spread of one over the numbers: seconds an item, from items a second."""
        return Spread(1.0 / self.median, 1.0 / self.high, 1.0 / self.low)


@dataclass(kw_only=True)
class Row:
    """One contender in a table.

    `verdict` is right, wrong, measured (there is no answer to compare), unchecked (there is, and nothing to hold it
    against), failed or missing.
    """

    contender: Contender
    verdict: str
    reason: str = ""
    rates: list[float] = field(default_factory=list)
    rate: Spread | None = None
    peak_bytes: int = 0
    seconds_to_prepare: float = 0.0
    cpu_share: float | None = None
    difference: float | None = None
    ratio: Spread | None = None
    against: str = ""
    share_of_limit: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether its speed may be compared: it was measured, and it did the job."""
        return self.rate is not None and self.verdict in ("right", "measured")

    @property
    def is_vitkit(self) -> bool:
        """Whether it is this package."""
        return self.contender.peer == "vitkit"


def spread(numbers: Sequence[float]) -> Spread:
    """Median and quartiles (inclusive); of one number, that number three times. Raises ValueError for none."""
    if not numbers:
        raise ValueError("there is nothing to take the median of")
    if len(numbers) == 1:
        return Spread(numbers[0], numbers[0], numbers[0])
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(middle, low, high)


def paired(rates: Sequence[float], others: Sequence[float]) -> Spread:
    """How many times as fast: the median over the rounds that both have of the ratio within a round.

    Neighbours in time share what else the machine was doing, so that it falls out of the ratio.
    """
    return spread([rate / other for rate, other in zip(rates, others, strict=False)])


def compare(rows: Sequence[Row]) -> None:
    """Gives every row that counts its `ratio` to the fastest peer of its precision, else of any.

    The peers are all but vitkit. Where only vitkit was run, ratios are to the first row.
    """
    counted = [row for row in rows if row.counts]
    peers = [row for row in counted if not row.is_vitkit] or counted[:1]
    for row in counted:
        same = [each for each in peers if each.contender.precision == row.contender.precision] or peers
        best = max(same, key=_median)
        row.ratio, row.against = paired(row.rates, best.rates), best.contender.name


def share(rate: float, work: float, limit: float | None) -> float | None:
    """The share of a limit in work a second that a rate in items a second reaches."""
    return None if not limit else rate * work / limit


def conclusion(rows: Sequence[Row]) -> str:
    """One sentence: the fastest right vitkit beside the fastest right peer, or why there is no such sentence."""
    counted = [row for row in rows if row.counts]
    ours = [row for row in counted if row.is_vitkit]
    peers = [row for row in counted if not row.is_vitkit]
    if not ours or not peers:
        return (
            "No ratio: "
            + ("vitkit" if peers else "no peer" if ours else "no contender")
            + " finished with the right answer."
        )
    mine, theirs = max(ours, key=_median), max(peers, key=_median)
    ratio = paired(mine.rates, theirs.rates)
    return (
        f"The fastest of vitkit ({mine.contender.name}) is {ratio.median:.2f} times as fast "
        f"({ratio.low:.2f} to {ratio.high:.2f}) as the fastest peer ({theirs.contender.name})."
    )


def to_dict(row: Row) -> dict[str, Any]:
    """The JSON form of a row."""
    return {
        "contender": row.contender.name,
        "peer": row.contender.peer,
        "precision": row.contender.precision,
        "settings": dict(row.contender.settings),
        "versions": row.versions,
        "verdict": row.verdict,
        "reason": row.reason,
        "rate": None if row.rate is None else vars(row.rate),
        "rates": row.rates,
        "ratio": None if row.ratio is None else vars(row.ratio),
        "against": row.against,
        "difference": row.difference,
        "peak_bytes": row.peak_bytes,
        "share_of_limit": row.share_of_limit,
        "seconds_to_prepare": row.seconds_to_prepare,
        "cpu_share": row.cpu_share,
        "notes": row.notes,
    }


def _median(row: Row) -> float:
    return row.rate.median if row.rate else 0.0
