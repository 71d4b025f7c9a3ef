"""Saves the results of a study as result.json, result.md and image files of the plots."""

import json
from pathlib import Path

import torch

from vitkit import __version__, atomic
from vitkit.explanation import _plots
from vitkit.paper import Experiment, Findings, Table
from vitkit.paper.small_scale import SmallScale


def write(name: str, experiment: Experiment, findings: Findings, small: SmallScale, seconds: float) -> list[Path]:
    """Saves the results of a study in its folder, and returns the paths. `seconds` is the CPU time."""
    small.out.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, drawing in findings.drawings.items():
        path = small.out / (f"{name}-{label}.png" if label else f"{name}.png")
        _plots.save(_plots.draw(drawing), path)
        paths.append(path)
    record = to_dict(name, experiment, findings, small, seconds)
    figures = [path.name for path in paths]
    texts = {
        "result.json": json.dumps(record, indent=2) + "\n",
        "result.md": markdown(experiment, findings, small, figures),
    }
    for file, text in texts.items():
        atomic.write_text(small.out / file, text)
    return [*paths, *(small.out / file for file in texts)]


def to_dict(
    name: str, experiment: Experiment, findings: Findings, small: SmallScale, seconds: float
) -> dict[str, object]:
    """Returns a dict for JSON with the results of a study and the settings that reproduce them."""
    return {
        "name": name,
        "title": experiment.title,
        "data": small.data,
        "seeds": small.seeds,
        "steps": small.steps,
        "model": small.model,
        "cpu_seconds": round(seconds, 1),
        "torch": torch.__version__,
        "vitkit": __version__,
        "published": experiment.published.to_dict(),
        "found": findings.table.to_dict(),
        "remarks": list(findings.remarks),
        "numbers": dict(findings.numbers),
    }


def markdown(experiment: Experiment, findings: Findings, small: SmallScale, figures: list[str]) -> str:
    """Returns a study as Markdown text: description, results, remarks and published numbers."""
    parts = [f"# {experiment.title}, at small scale", experiment.shows, f"{experiment.small} Dataset: `{small.data}`."]
    parts += [table(findings.table), *(f"![]({name})" for name in figures)]
    parts.append("\n".join(f"* {remark}" for remark in findings.remarks))
    parts += [f"## As published ({experiment.section})", table(experiment.published)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(content: Table) -> str:
    """Formats a `Table` in Markdown."""
    lines = ["| " + " | ".join(content.columns) + " |", "|" + "---|" * len(content.columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in content.words()])
