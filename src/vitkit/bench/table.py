"""Writes benchmark reports as terminal tables, JSON and Markdown."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vitkit import atomic, tables
from vitkit.bench import figures, machine
from vitkit.bench.figures import Row, Spread
from vitkit.bench.kinds import kind
from vitkit.config import JsonDict

if TYPE_CHECKING:
    from vitkit.bench.measure import Report, Section

HEAD = ("candidate", "rate", "ratio", "limit", "memory", "difference", "status")
NONE = "-"


def show(report: "Report") -> None:
    """Prints a table and remarks for every section of a report. The fastest candidate is the first row."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for section in report.sections:
        rows = ordered(section)
        styles = ["green" if row.is_vitkit and row.counts else "" if row.counts else "dim" for row in rows]
        numbers = range(1, len(HEAD) - 1)
        text = tables.table([_units(report), *(cells(report, row) for row in rows)], _head(report), right=numbers)
        console.print(Text(title(section), style="bold"))
        for line, style in zip(text.splitlines(), ["bold", "bold", *styles], strict=True):
            console.print(Text(line, style=style))
        for line in remarks(report, section):
            console.print(Text(line))
        console.print()


def to_json(report: "Report") -> str:
    """Returns a report as JSON text."""
    return json.dumps(to_dict(report), indent=2)


def to_dict(report: "Report") -> JsonDict:
    """Converts a report to a dict for JSON."""
    return {
        "kind": report.kind,
        "date": report.date,
        "command": report.command,
        "machine": report.machine,
        "versions": report.versions,
        "plan": dataclasses.asdict(report.plan),
        "interrupted": report.interrupted,
        "unit": "images/s" if kind(report.kind).UNIT != "s" else "processes/s",
        "sections": [_section(section) for section in report.sections],
    }


def write(report: "Report", folder: Path) -> tuple[Path, Path]:
    """Writes a report to a folder as `<kind>_<hardware>_<date>.md` and `.json`. Replaces existing files."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{report.kind}_{machine.short_name(report.machine)}_{report.date[:10]}"
    page, data = folder / f"{name}.md", folder / f"{name}.json"
    atomic.write_text(page, markdown(report))
    atomic.write_text(data, to_json(report) + "\n")
    return page, data


def markdown(report: "Report") -> str:
    """Returns a report as Markdown, with the hardware, the command, the tables and a legend."""
    found = report.machine
    gpus = "; ".join(map(str, found.get("gpu") or [])) if isinstance(found.get("gpu"), list) else ""
    memory = found["memory_bytes"]
    lines = [
        f"# {report.kind.capitalize()}: vitkit and other libraries",
        "",
        (kind(report.kind).__doc__ or "").strip(),
        "",
        f"* Command: `{report.command}`",
        f"* Date: {report.date}",
        *([f"* GPU: {gpus}"] if gpus else []),
        f"* Processor: {machine.summary(found)}",
        f"* Memory: {NONE if memory is None else f'{memory / 2**30:.0f} GiB'}; load at the start: {found['load']}",
        f"* System: {found['system']}, Python {found['python']}",
        f"* Versions: {', '.join(f'{name} {version}' for name, version in _versions(report).items())}",
        f"* Rounds: {report.plan.rounds} of at least {report.plan.seconds:g} s each, after {report.plan.warm_up} "
        "warm-up rounds; the candidates take turns",
        *(["* Interrupted before the end."] if report.interrupted else []),
    ]
    for section in report.sections:
        head = [f"{name}, {unit}" if unit else name for name, unit in zip(_head(report), _units(report), strict=True)]
        lines += ["", f"## {title(section)}", "", _line(head), _line(["---"] + ["---:"] * (len(HEAD) - 2) + ["---"])]
        lines += [_line(cells(report, row)) for row in ordered(section)]
        lines += [""] + [f"* {remark}" for remark in remarks(report, section)]
    lines += ["", *_legend(report)]
    return "\n".join(lines) + "\n"


def ordered(section: "Section") -> list[Row]:
    """Returns the rows of ranked candidates, starting with the fastest, followed by the other rows."""
    return sorted(section.rows, key=lambda row: (not row.counts, -row.rate.median if row.rate else 0.0))


def title(section: "Section") -> str:
    """Returns the title of a report section: the task with its model, batch size and device."""
    job = section.job
    parts = [job.task if job.task != job.kind else "", job.model]
    parts.append(f"batch {job.batch}" if job.kind in ("inference", "training") else "")
    parts.append(f"{len(job.images)} images" if job.kind in ("classification", "data") else "")
    where = "GPU" if job.device == "cuda" else f"{job.threads} {'thread' if job.threads == 1 else 'threads'}"
    return ", ".join([*filter(None, parts), where])


def cells(report: "Report", row: Row) -> list[str]:
    """Returns the cells of a table row. Candidates with wrong outputs have no ratio."""
    rate = None if row.rate is None else row.rate.inverse() if kind(report.kind).SHOWS_SECONDS else row.rate
    fraction = row.fraction_of_limit
    return [
        row.candidate.name,
        NONE if rate is None else f"{number(rate.median)} ({_range(rate)})",
        NONE if row.ratio is None else f"{row.ratio.median:.2f}x",
        NONE if fraction is None else f"{fraction:.0%}",
        NONE if not row.peak_bytes else f"{row.peak_bytes / 2**20:,.0f}",
        NONE if row.difference is None else f"{row.difference:.2g}",
        row.status,
    ]


def remarks(report: "Report", section: "Section") -> list[str]:
    """Returns the sentences below a table: the conclusion, the limits, and the reasons for failures."""
    lines = [figures.conclusion(section.rows)]
    lines += [f"{row.candidate.name}, {row.status}: {row.reason}." for row in section.rows if row.reason]
    for row in section.limits:
        rate, name = row.rate, row.candidate.precision
        if rate is None:
            lines.append(f"Limit, {name}: not measured ({row.reason}).")
        else:
            how = ", ".join(row.notes.values())
            lines.append(f"Limit, {name}: {_limit(report, name, rate)} ({how}).")
    if section.reference:
        lines.append(f"Outputs are compared with those of {section.reference}.")
    return lines


def number(value: float) -> str:
    """Formats a number with three significant digits. Numbers of at least 100 are rounded to integers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _limit(report: "Report", name: str, rate: Spread) -> str:
    if name == "copy":
        return f"{rate.median / 1e9:.1f} GB/s"
    if report.kind in ("inference", "training"):
        return f"{rate.median / 1e12:.3g} TFLOP/s ({_range(rate.times(1e-12))})"
    shown = rate.inverse() if kind(report.kind).SHOWS_SECONDS else rate
    return f"{number(shown.median)} {kind(report.kind).UNIT} ({_range(shown)})"


def _range(spread: Spread) -> str:
    return f"{number(spread.low)} to {number(spread.high)}"


def _head(report: "Report") -> list[str]:
    return ["time" if name == "rate" and kind(report.kind).SHOWS_SECONDS else name for name in HEAD]


def _units(report: "Report") -> list[str]:
    return ["", kind(report.kind).UNIT, "best peer", "fraction", "MiB", "", ""]


def _versions(report: "Report") -> dict[str, str]:
    found = dict(report.versions)
    for section in report.sections:
        for row in section.rows:
            found |= row.versions
    return dict(sorted(found.items()))


def _section(section: "Section") -> JsonDict:
    job = section.job
    return {
        "title": title(section),
        "task": job.task,
        "model": job.model,
        "batch": job.batch,
        "threads": job.threads,
        "device": job.device,
        "image_size": list(job.image_size),
        "shape": dict(job.shape),
        "reference": section.reference,
        "conclusion": figures.conclusion(section.rows),
        "rows": [figures.to_dict(row) for row in ordered(section)],
        "limits": [figures.to_dict(row) for row in section.limits],
    }


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _legend(report: "Report") -> list[str]:
    module = kind(report.kind)
    return [
        "The ratios are the result; rates (medians and quartiles) depend on the machine and its load. `ratio` is",
        "relative to the fastest peer of the same precision with correct outputs: the median of the ratios within each",
        "round, in which load on the machine cancels out. `limit` is the fraction of the measured limit. `memory` is",
        "the peak memory of the process, on a GPU that of its tensors.",
        f"`difference` is the {module.DIFFERENCE};",
        "a candidate with a larger difference than its precision explains is `wrong` and has no ratio.",
    ]
