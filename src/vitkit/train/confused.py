"""The parts of a report that say what a model confuses, and whether it knows when it does."""

from collections.abc import Sequence
from html import escape

from vitkit.evaluate import Predictions, calibration, confusion, top1
from vitkit.train import charts

MOST_CLASSES = 20  # in a confusion matrix that can still be read


def classes(predictions: Predictions, names: tuple[str, ...]) -> str:
    """Which classes are taken for which, and how well each is found."""
    counts = confusion.matrix(predictions)
    results = sorted(confusion.per_class(counts, names), key=lambda result: result.f1)
    rows = "".join(
        f"<tr><td>{escape(each.name)}</td><td>{each.pictures}</td>{_bar(each.recall)}{_bar(each.precision)}</tr>"
        for each in results
        if each.pictures
    )
    table = (
        '<div class="card scroll"><h3>Class by class, the hardest first</h3><table class="classes"><tr><th>class</th>'
        f"<th>pictures</th><th>found</th><th>right when said</th></tr>{rows}</table></div>"
    )
    values: list[list[int]] = counts.tolist()
    shown = matrix(values, names) if len(names) <= MOST_CLASSES else pairs(values, names)
    return f'<h2>What it takes for what</h2><div class="pair">{shown}{table}</div>'


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The confusion matrix as a table; rows are the truth."""
    most_wrong = max((value for r, row in enumerate(counts) for c, value in enumerate(row) if r != c), default=0) or 1
    rows = []
    for truth, row in enumerate(counts):
        cells = []
        for guess, value in enumerate(row):
            kind = "zero" if value == 0 else "hit" if truth == guess else "miss"
            share = 10 + 60 * value / max(1, sum(row)) if kind == "hit" else 20 + 60 * value / most_wrong
            tip = f"{escape(names[truth])} taken for {escape(names[guess])}: {value}"
            cells.append(f'<td class="{kind}" style="--share:{share:.0f}%" title="{tip}">{value}</td>')
        rows.append(f"<tr><th>{escape(names[truth])}</th>{''.join(cells)}</tr>")
    header = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        '<div class="card scroll"><h3>Rows are what it is, columns what it said</h3>'
        f'<table class="matrix"><tr><th></th>{header}</tr>{"".join(rows)}</table></div>'
    )


def pairs(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The classes most often taken for another, where there are too many for a matrix."""
    wrong = [(value, r, c) for r, row in enumerate(counts) for c, value in enumerate(row) if r != c and value]
    rows = "".join(
        f"<tr><td>{escape(names[truth])}</td><td>{escape(names[guess])}</td><td>{value}</td></tr>"
        for value, truth, guess in sorted(wrong, reverse=True)[:MOST_CLASSES]
    )
    return (
        '<div class="card scroll"><h3>Most often confused</h3><table class="classes"><tr><th>is</th><th>said</th>'
        f"<th>pictures</th></tr>{rows}</table></div>"
    )


def certainty(predictions: Predictions) -> str:
    """Whether it is right as often as it says, and how often it is right on the pictures it is surest of."""
    predictions = calibration.labelled(predictions)
    found = [each for each in calibration.bins(predictions, num=10) if each.pictures]
    total = sum(each.pictures for each in found)
    gap = sum((each.confidence - each.accuracy) * each.pictures for each in found) / total
    manner = "too sure of itself" if gap > 0.01 else "less sure than it could be" if gap < -0.01 else "as sure as right"
    chart = charts.reliability_chart([(each.confidence, each.accuracy, each.pictures) for each in found])
    temperature = calibration.temperature(predictions)
    return (
        "<h2>Does it know when it is wrong?</h2>"
        f"<p>On average it is {manner}: its certainty is {gap * 100:+.1f} points from its accuracy. "
        f"Its scores fit best with the logits divided by {temperature:.2f}.</p>"
        '<div class="pair"><div class="card small"><h3>Certainty against truth</h3>'
        f"{chart}<p class='soft'>A dot is a group of pictures of like certainty, larger for more pictures; on the "
        f"dashed line it is right as often as it says.</p></div>{abstaining(predictions)}</div>"
    )


def abstaining(predictions: Predictions) -> str:
    """How often it is right where it may stay silent about the pictures it is least sure of."""
    predictions = calibration.labelled(predictions)
    certain = predictions.scores.amax(dim=1)
    order = certain.argsort(descending=True, stable=True)
    right, certain = top1.hits(predictions, 1)[order], certain[order]
    rows = []
    for share in (1.0, 0.99, 0.95, 0.9, 0.8, 0.5):
        answered = max(1, round(share * right.shape[0]))
        wrong = answered - int(right[:answered].sum())
        rows.append(
            f"<tr><td>{share:.0%}</td><td>{float(certain[answered - 1]):.0%}</td>{_bar(1 - wrong / answered)}"
            f"<td>{wrong} of {answered}</td></tr>"
        )
    return (
        '<div class="card scroll"><h3>If it may stay silent when unsure</h3><table class="classes"><tr><th>answers</th>'
        f"<th>sure from</th><th>right</th><th>wrong</th></tr>{''.join(rows)}</table></div>"
    )


def _bar(share: float) -> str:
    return f'<td><span class="bar"><i style="width:{share * 100:.0f}%"></i></span><b>{share:.1%}</b></td>'
