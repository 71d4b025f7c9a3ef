"""Report sections and main metrics that depend on the task of a model, for training and evaluation reports."""

from collections.abc import Sequence

import torch

from vitkit.checkpoints import Checkpoint
from vitkit.data import Source
from vitkit.evaluation import Predictions, average_precision, f1, regression
from vitkit.report import charts, confusion, mistakes
from vitkit.report.page import shown_name, tile
from vitkit.text import percent


def sections(
    source: Source,
    predictions: Predictions,
    model: Checkpoint | None,
    *,
    split: str = "",
    links: Sequence[str] = (),
) -> list[str]:
    """Returns the report sections on the predictions of a model. The predictions must be in the order of `source`.

    `split` is the split of the images, and `links` are the names of the prediction files.
    """
    names = source.classes
    shown = mistakes.section(source, predictions, model, split=split, links=links)
    if predictions.task.regression:
        return [value_section(predictions, names), shown]
    confidence = confusion.confidence_section(predictions)
    if predictions.task.problem_type == "multi_label_classification":
        return [label_section(predictions, names), confidence, shown]
    return [confusion.class_section(predictions, names), confidence, shown]


def tiles(predictions: Predictions, names: tuple[str, ...], what: str = "") -> list[str]:
    """Returns HTML boxes with the main metrics of predictions. `what` is a prefix of the metric names."""
    if predictions.task.regression:
        results = regression.per_target(predictions, names)
        r2 = sum(each.r2 for each in results) / len(results)
        if len(results) == 1:
            return [tile(f"{r2:.4f}", f"{what}R2", first=True), tile(f"{results[0].mae:.4g}", "mean absolute error")]
        worst = min(results, key=lambda each: each.r2)
        # A mean of absolute errors in several units means nothing.
        return [
            tile(f"{r2:.4f}", f"{what}R2, mean of {len(results)} targets", first=True),
            tile(f"{worst.r2:.4f}", f"R2 of {worst.name}, the lowest"),
        ]
    if predictions.task.problem_type == "multi_label_classification":
        counted = _counted(predictions)
        mean = sum(counted.values()) / len(counted) if counted else 0.0
        wrong = len(mistakes.wrong_predictions(predictions))
        return [
            tile(percent(mean), f"{what}mean average precision", first=True),
            tile(f"{wrong:,} of {predictions.targets.shape[0]:,}", "images with a wrong label"),
        ]
    labelled = int((predictions.targets.sum(dim=1) > 0).sum())
    wrong = len(mistakes.wrong_predictions(predictions))
    first = [tile(percent((labelled - wrong) / labelled), f"{what}accuracy", first=True)] if labelled else []
    return [*first, tile(f"{wrong:,} of {labelled:,}", "wrong")]


def label_section(predictions: Predictions, names: tuple[str, ...]) -> str:
    """Returns a section with the metrics of every label of a multi-label task, at the label's decision threshold."""
    counted = _counted(predictions)
    results = sorted(enumerate(f1.per_label(predictions, names)), key=lambda each: each[1].f1)
    rows = "".join(
        f'<tr><td>{shown_name(each.name)}</td><td data-name="images">{each.images:,}</td>'
        f'<td data-name="threshold">{each.threshold:.3g}</td>{confusion.bar(counted[index], "average precision")}'
        f"{confusion.bar(each.f1, 'F1')}{confusion.bar(each.recall, 'recall')}"
        f"{confusion.bar(each.precision, 'precision')}</tr>"
        for index, each in results
        if each.images
    )
    return (
        "<h2>Labels</h2><p>A label is predicted if its score is at least its threshold.</p>"
        '<div class="card"><h3>Labels by F1, lowest first</h3><table class="classes stack"><tr><th>label</th>'
        "<th>images</th><th>threshold</th><th>average precision</th><th>F1</th><th>recall</th><th>precision</th></tr>"
        f"{rows}</table></div>"
    )


def value_section(predictions: Predictions, names: tuple[str, ...]) -> str:
    """Returns a section on a regression: plots of predicted against true values, and a table of errors."""
    rows = "".join(
        f"<tr><td>{shown_name(each.name)}</td><td>{each.mae:.4g}</td><td>{each.rmse:.4g}</td><td>{each.r2:.4f}</td></tr>"
        for each in regression.per_target(predictions, names)
    )
    table = (
        '<div class="card"><h3>Errors, in the units of the target</h3><table class="classes"><tr>'
        f"<th>target</th><th>mean absolute</th><th>root mean squared</th><th>R2</th></tr>{rows}</table></div>"
    )
    plots = [
        f'<div class="card small"><h3>{shown_name(name)}</h3>'
        f"{charts.scatter_chart(list(zip(true, found, strict=True)))}"
        "<p class='soft'>Each dot is an image; on the dashed line, the prediction is the true value.</p></div>"
        for name, true, found in zip(names, predictions.targets.T.tolist(), predictions.scores.T.tolist(), strict=True)
    ]
    return f'<h2>Predicted values</h2><div class="pair">{plots[0]}{table}{"".join(plots[1:4])}</div>'


def _counted(predictions: Predictions) -> dict[int, float]:
    """Returns the average precision of each label that has images, by label index."""
    truth = predictions.targets > 0
    present = torch.nonzero(truth.any(dim=0))[:, 0]
    if not present.numel():
        return {}
    each = average_precision.average_precision(predictions.logits[:, present], truth[:, present])
    return dict(zip(present.tolist(), each.tolist(), strict=True))
