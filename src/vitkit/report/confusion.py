"""Report sections for the confusion matrix, per-class metrics and confidence calibration."""

from collections.abc import Sequence

from vitkit.evaluation import Predictions, calibration, confusion, top1
from vitkit.report import charts
from vitkit.report.page import shown_name

MAX_CLASSES = 20  # the largest confusion matrix that stays readable
MAX_NARROW = 6  # the largest confusion matrix that fits a screen 400 pixels wide


def class_section(predictions: Predictions, names: tuple[str, ...]) -> str:
    """Returns a section with the confusion matrix (or the most confused pairs) and the metrics of every class."""
    counts = confusion.matrix(predictions)
    results = sorted(confusion.per_class(counts, names), key=lambda result: result.f1)
    rows = "".join(
        f"<tr><td>{shown_name(each.name)}</td><td>{each.images}</td>{bar(each.recall)}{bar(each.precision)}</tr>"
        for each in results
        if each.images
    )
    table = (
        '<div class="card"><h3>Classes by F1, lowest first</h3><table class="classes"><tr><th>class</th>'
        f"<th>images</th><th>recall</th><th>precision</th></tr>{rows}</table></div>"
    )
    values: list[list[int]] = counts.tolist()
    shown = confused_pairs(values, names)
    if len(names) <= MAX_CLASSES:
        table_class = "wide" if len(names) > MAX_NARROW else ""  # a narrow screen shows the list of pairs instead
        pairs = f'<div class="narrow">{shown}</div>' if table_class else ""
        shown = f'<div class="{table_class}">{matrix(values, names)}</div>{pairs}'
    return f'<h2>Confusion matrix</h2><div class="pair">{shown}{table}</div>'


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Returns the confusion matrix as an HTML table, with true classes in rows and predicted classes in columns."""
    most_wrong = max((value for r, row in enumerate(counts) for c, value in enumerate(row) if r != c), default=0) or 1
    shown = [shown_name(name) for name in names]
    rows = []
    for label, row in enumerate(counts):
        cells = []
        for predicted, value in enumerate(row):
            kind = "zero" if value == 0 else "hit" if label == predicted else "miss"
            tint = 10 + 60 * value / max(1, sum(row)) if kind == "hit" else 20 + 60 * value / most_wrong
            tip = f"{shown[label]} predicted as {shown[predicted]}: {value}"
            text = str(value) if kind != "miss" else pair_button(label, predicted, value, names)
            cells.append(f'<td class="{kind}" style="--tint:{tint:.0f}%" title="{tip}">{text}</td>')
        rows.append(f'<tr><th scope="row" title="{shown[label]}">{shown[label]}</th>{"".join(cells)}</tr>')
    header = "".join(f'<th scope="col" title="{name}">{name}</th>' for name in shown)
    return (
        '<div class="card"><h3>Rows are labels, columns are predictions; a count of mistakes shows them</h3>'
        f'<table class="matrix"><tr><th></th>{header}</tr>{"".join(rows)}</table></div>'
    )


def confused_pairs(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Returns an HTML table of the most frequently confused classes, for a matrix that is too large to show."""
    wrong = [(value, r, c) for r, row in enumerate(counts) for c, value in enumerate(row) if r != c and value]
    rows = "".join(
        f"<tr><td>{shown_name(names[label])}</td><td>{shown_name(names[predicted])}</td>"
        f"<td>{pair_button(label, predicted, value, names)}</td></tr>"
        for value, label, predicted in sorted(wrong, reverse=True)[:MAX_CLASSES]
    )
    return (
        '<div class="card"><h3>Most frequent confusions</h3><table class="classes pairs"><tr><th>label</th>'
        f"<th>predicted</th><th>images</th></tr>{rows}</table></div>"
    )


def pair_button(label: int, predicted: int, value: int, names: Sequence[str]) -> str:
    """Returns a button with a count, which filters the gallery of mistakes by a pair of classes."""
    title = f"{names[label]} predicted as {names[predicted]}: {value}, show them"
    return (
        f'<button type="button" data-pair="{label},{predicted}" aria-pressed="false" aria-label="{shown_name(title)}">'
        f"{value}</button>"
    )


def confidence_section(predictions: Predictions) -> str:
    """Returns a section with the reliability diagram and the accuracy on the most confident images."""
    predictions = calibration.usable(predictions)
    bins = [each for each in calibration.bins(predictions, num=10) if each.images]
    total = sum(each.images for each in bins)
    gap = sum((each.confidence - each.accuracy) * each.images for each in bins) / total
    verdict = "overconfident" if gap > 0.01 else "underconfident" if gap < -0.01 else "well calibrated"
    chart = charts.reliability_chart([(each.confidence, each.accuracy, each.images) for each in bins])
    temperature = calibration.temperature(predictions)
    independent = calibration.independent(predictions)
    dot = "A dot is a bin of decisions (label or no label)" if independent else "A dot is a bin of images"
    coverage = "" if independent else coverage_table(predictions)
    return (
        "<h2>Confidence</h2>"
        f"<p>On average the model is {verdict}: its mean confidence is {abs(gap) * 100:.1f} percentage points "
        f"{'above' if gap > 0 else 'below'} its accuracy. "
        f"The best temperature for its logits is {temperature:.2f}.</p>"
        '<div class="pair"><div class="card small"><h3>Reliability diagram</h3>'
        f"{chart}<p class='soft'>{dot} with similar confidence, larger for more of them. On the "
        f"dashed line, confidence equals accuracy.</p></div>{coverage}</div>"
    )


def coverage_table(predictions: Predictions) -> str:
    """Returns an HTML table with the accuracy on the most confident 100, 99, 95, 90, 80 and 50 % of the images."""
    predictions = calibration.labelled(predictions)
    confidence = predictions.scores.amax(dim=1)
    order = confidence.argsort(descending=True, stable=True)
    correct, confidence = top1.hits(predictions, 1)[order], confidence[order]
    rows = []
    for coverage in (1.0, 0.99, 0.95, 0.9, 0.8, 0.5):
        count = max(1, round(coverage * correct.shape[0]))
        wrong = count - int(correct[:count].sum())
        rows.append(
            f"<tr><td>{coverage:.0%}</td><td>{float(confidence[count - 1]):.0%}</td>{bar(1 - wrong / count)}"
            f"<td>{wrong} of {count}</td></tr>"
        )
    return (
        '<div class="card"><h3>Accuracy on the most confident images</h3><table class="classes">'
        "<tr><th>coverage</th><th>confidence from</th><th>accuracy</th><th>wrong</th></tr>"
        f"{''.join(rows)}</table></div>"
    )


def bar(fraction: float, name: str = "") -> str:
    """Returns an HTML table cell that shows a fraction as a bar and in percent, with its name on small screens."""
    line = f'<span class="bar"><i style="width:{fraction * 100:.0f}%"></i></span>'
    return f'<td class="meter" data-name="{name}">{line}<b>{fraction:.1%}</b></td>'
