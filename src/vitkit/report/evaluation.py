"""Writes the report of an evaluation: `evaluation.json`, `report.html`, `predictions.csv`, `predictions.parquet`."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vitkit import atomic
from vitkit.evaluation import formatted
from vitkit.evaluation.protocol import Evaluation
from vitkit.report import gallery, predictions, results
from vitkit.report.page import corrections, page, page_links, tile, unreadable_section


def write(evaluation: Evaluation, folder: Path) -> dict[str, object]:
    """Writes the files of the report to a folder, and returns the content of `evaluation.json`.

    Raises ValueError if the folder contains a report of a training run.
    """
    report = folder / "report.html"
    if report.exists() and not (folder / "evaluation.json").exists():
        raise ValueError(f"the file '{report}' exists and is not the report of an evaluation; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    links = predictions.write(folder, evaluation.predictions, evaluation.source.classes, evaluation.split)
    content = evaluation.to_dict() | {"files": {"report": report.name, "predictions": list(links)}}
    atomic.write_text(folder / "evaluation.json", json.dumps(content, indent=2) + "\n")
    atomic.write_text(report, html(evaluation, links))
    return content


def html(evaluation: Evaluation, links: Sequence[str] = ()) -> str:
    """Returns the report of an evaluation as one HTML document, with links to the prediction files."""
    parts = [head(evaluation), table(evaluation.metrics)]
    found = evaluation.predictions
    if found is not None and (found.task.regression or bool((found.targets.sum(dim=1) > 0).any())):
        parts += results.sections(evaluation.source, found, evaluation.checkpoint, split=evaluation.split, links=links)
    elif links:
        parts.append(f"<p>{page_links(links, len(evaluation.source))}</p>")
    if evaluation.threshold is not None:
        parts.append(threshold_section(evaluation.source.classes, evaluation.threshold))
    parts.append(unreadable_section(list(evaluation.unreadable)))
    text = escape(json.dumps(evaluation.to_dict(), indent=2))
    parts.append(f"<details><summary>All metrics and options (evaluation.json)</summary><pre>{text}</pre></details>")
    return page(f"{evaluation.model} on {evaluation.config.data}", "\n".join(parts), gallery.SCRIPT)


def head(evaluation: Evaluation) -> str:
    """Returns the head of the report: the title, a summary and the main metrics."""
    tiles = []
    if evaluation.predictions is not None:
        tiles += results.tiles(evaluation.predictions, evaluation.source.classes)
    tiles.append(tile(f"{len(evaluation.source):,}", "images"))
    tiles.append(tile(evaluation.precision, f"on {evaluation.device}"))
    training = ""
    if evaluation.training is not None:
        name = evaluation.config.train or evaluation.config.data
        count = f"{len(evaluation.training):,}"
        training = f" Classifiers on its features are trained on {count} images of <code>{escape(name)}</code>."
    corrected = corrections(evaluation.source, *([] if evaluation.training is None else [evaluation.training]))
    return (
        f"<h1>{escape(evaluation.model)}</h1>"
        f'<p class="lead">Evaluated on {len(evaluation.source):,} images of '
        f"<code>{escape(evaluation.config.data)}</code>.{training}{escape(corrected)}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def threshold_section(names: tuple[str, ...], threshold: tuple[float, ...]) -> str:
    """Returns a table of tuned thresholds, one per label."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{value:.4g}</td></tr>" for name, value in zip(names, threshold, strict=True)
    )
    return (
        "<h2>Tuned thresholds</h2><p>They give each label the best F1 on these images. The metrics "
        "<code>f1_tuned</code> are those with these thresholds.</p>"
        f'<div class="card"><table class="classes"><tr><th>label</th><th>threshold</th></tr>{rows}</table></div>'
    )


def table(metrics: dict[str, float]) -> str:
    """Returns an HTML table of all metrics, grouped by evaluator."""
    rows = "".join(
        f"<tr><td><span class='soft'>{escape(evaluator)}</span> {escape(name)}</td><td>{value}</td></tr>"
        for evaluator, name, value in metric_rows(metrics)
    )
    return f'<h2>All metrics</h2><div class="card"><table class="classes">{rows}</table></div>'


def metric_rows(metrics: dict[str, float]) -> Sequence[tuple[str, str, str]]:
    """Returns the rows of the table of metrics: evaluator, name of the metric, and formatted value."""
    rows = []
    for key, value in metrics.items():
        evaluator, _, name = key.rpartition(".")
        rows.append((evaluator, name, formatted(key, value)))
    return rows
