"""A report for people (a table on the terminal), for programs (JSON) and for keeping (Markdown)."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitkit import atomic
from vitkit.bench import figures, machine
from vitkit.bench.figures import Row, Spread
from vitkit.bench.kinds import kind

if TYPE_CHECKING:
    from vitkit.bench.measure import Report, Section

HEAD = ("contender", "rate", "ratio", "limit", "memory", "differs", "verdict")
NONE = "-"


def show(report: "Report") -> None:
    """Prints every section as a table, fastest first, and what it comes to."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for section in report.sections:
        table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
        for place, (name, unit) in enumerate(zip(_head(report), _units(report), strict=True)):
            side = "left" if place in (0, len(HEAD) - 1) else "right"
            table.add_column(f"{name}\n{unit}", justify=side, overflow="fold")
        for row in ordered(section):
            style = "green" if row.is_vitkit and row.counts else "" if row.counts else "dim"
            table.add_row(*(Text(cell) for cell in cells(report, row)), style=style)
        console.print(Text(title(section), style="bold"))
        console.print(table)
        for line in remarks(report, section):
            console.print(Text(line))
        console.print()


def to_json(report: "Report") -> str:
    """One JSON object."""
    return json.dumps(to_dict(report), indent=2)


def to_dict(report: "Report") -> dict[str, Any]:
    """The JSON form of a report."""
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
    """Writes `<what>_<hardware>_<date>.md` and `.json` into a folder; an existing pair of that name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{report.kind}_{machine.short_name(report.machine)}_{report.date[:10]}"
    page, data = folder / f"{name}.md", folder / f"{name}.json"
    atomic.write_text(page, markdown(report))
    atomic.write_text(data, to_json(report) + "\n")
    return page, data


def markdown(report: "Report") -> str:
    """The whole page: what was run where, the tables, and how to read them."""
    found = report.machine
    gpus = "; ".join(map(str, found.get("gpu") or [])) if isinstance(found.get("gpu"), list) else ""
    memory = found["memory_bytes"]
    lines = [
        f"# {report.kind.capitalize()}: vitkit and its peers",
        "",
        (kind(report.kind).__doc__ or "").strip(),
        "",
        f"* Command: `{report.command}`",
        f"* Date: {report.date}",
        *([f"* GPU: {gpus}"] if gpus else []),
        f"* Processor: {machine.words(found)}",
        f"* Memory: {NONE if memory is None else f'{memory / 2**30:.0f} GiB'}; load when it began: {found['load']}",
        f"* System: {found['system']}, Python {found['python']}",
        f"* Versions: {', '.join(f'{name} {version}' for name, version in _versions(report).items())}",
        f"* Rounds: {report.plan.rounds} of at least {report.plan.seconds:g} s each, after {report.plan.warm_up} "
        "to warm up; the contenders take turns",
        *(["* Stopped by hand before it was done."] if report.interrupted else []),
    ]
    for section in report.sections:
        head = [f"{name}, {unit}" if unit else name for name, unit in zip(_head(report), _units(report), strict=True)]
        lines += ["", f"## {title(section)}", "", _line(head), _line(["---"] + ["---:"] * (len(HEAD) - 2) + ["---"])]
        lines += [_line(cells(report, row)) for row in ordered(section)]
        lines += [""] + [f"* {remark}" for remark in remarks(report, section)]
    lines += ["", *_legend(report)]
    return "\n".join(lines) + "\n"


def ordered(section: "Section") -> list[Row]:
    """The rows that count by speed, then those that do not."""
    return sorted(section.rows, key=lambda row: (not row.counts, -row.rate.median if row.rate else 0.0))


def title(section: "Section") -> str:
    """What a section is of."""
    job = section.job
    words = [job.task if job.task != job.kind else "", job.model]
    words.append(f"batch {job.batch}" if job.kind in ("inference", "training") else "")
    words.append(f"{len(job.photos)} photos" if job.kind in ("photos", "data") else "")
    where = "GPU" if job.device == "cuda" else f"{job.threads} {'thread' if job.threads == 1 else 'threads'}"
    return ", ".join([*filter(None, words), where])


def cells(report: "Report", row: Row) -> list[str]:
    """A row as text. A contender that is not right has no ratio: it does not do the job, however fast."""
    rate = None if row.rate is None else row.rate.inverse() if kind(report.kind).SHOWS_SECONDS else row.rate
    share = row.share_of_limit
    return [
        row.contender.name,
        NONE if rate is None else f"{number(rate.median)} ({_range(rate)})",
        NONE if row.ratio is None else f"{row.ratio.median:.2f}x",
        NONE if share is None else f"{share:.0%}",
        NONE if not row.peak_bytes else f"{row.peak_bytes / 2**20:,.0f}",
        NONE if row.difference is None else f"{row.difference:.2g}",
        row.verdict,
    ]


def remarks(report: "Report", section: "Section") -> list[str]:
    """The sentences under a table."""
    lines = [figures.conclusion(section.rows)]
    lines += [f"{row.contender.name}, {row.verdict}: {row.reason}." for row in section.rows if row.reason]
    for row in section.limits:
        rate, name = row.rate, row.contender.precision
        if rate is None:
            lines.append(f"Limit, {name}: not measured ({row.reason}).")
        else:
            how = ", ".join(row.notes.values())
            lines.append(f"Limit, {name}: {_limit(report, name, rate)} ({how}).")
    if section.reference:
        lines.append(f"Answers are held against those of {section.reference}.")
    return lines


def number(value: float) -> str:
    """Three digits, or all before the point."""
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
    return ["", kind(report.kind).UNIT, "best peer", "share", "MiB", "", ""]


def _versions(report: "Report") -> dict[str, str]:
    found = dict(report.versions)
    for section in report.sections:
        for row in section.rows:
            found |= row.versions
    return dict(sorted(found.items()))


def _section(section: "Section") -> dict[str, Any]:
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


def _line(words: list[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"


def _legend(report: "Report") -> list[str]:
    module = kind(report.kind)
    return [
        "How to read it: ratios are the result; absolute figures (medians and quartiles) belong to this machine in",
        "that hour. `ratio` is to the fastest peer of the same precision that gave the right answer: the median over",
        "the rounds of the ratio within a round, so that what else the machine did falls out of it. `limit` is the",
        "share of the measured limit. `memory` is the most that the process (on a GPU: its tensors) held while it ran.",
        f"`differs` is the {module.DIFFERENCE}; a contender beyond what its",
        "precision explains is `wrong`, and no ratio is made of it.",
    ]
