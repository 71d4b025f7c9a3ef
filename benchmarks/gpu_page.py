"""Writes the page and the JSON of `gpu_check.py`. Standard library only."""

import json
from datetime import date
from pathlib import Path
from typing import Any

HEAD = ("candidate", "images/s", "TFLOP/s", "MFU", "of block products", "ratio to best peer", "memory, MiB", "status")
LOG_LINES = 30


def write(out: Path, facts: dict[str, Any], results: list[dict[str, Any]], seconds: float) -> Path:
    """Writes `gpu-check_HARDWARE_DATE.md` and `.json`, and `.log` if a step failed; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    kind = "gpu-check-tiny" if facts["options"]["tiny"] else "gpu-check"
    stem = f"{kind}_{facts['short_name']}_{date.today()}"
    page, data, log = (out / f"{stem}.{ending}" for ending in ("md", "json", "log"))
    saved = [{key: value for key, value in result.items() if key != "log"} for result in results]
    data.write_text(json.dumps({"facts": facts, "seconds": round(seconds, 1), "steps": saved}, indent=1) + "\n")
    failed = [result for result in results if result["log"] and result["outcome"] != "passed"]
    if failed:
        log.write_text("".join(f"== {each['command']}\n{each['log']}\n" for each in failed), encoding="utf-8")
    page.write_text(markdown(facts, results, seconds), encoding="utf-8")
    return page


def markdown(facts: dict[str, Any], results: list[dict[str, Any]], seconds: float) -> str:
    """Returns the complete page."""
    lines = [*head(facts, seconds), "", "## Steps", ""]
    lines += table(
        ("part", "step", "outcome", "seconds", "limit", "why"),
        [
            (
                each["part"],
                each["name"],
                each["outcome"],
                f"{each['seconds']:.0f}",
                f"{each['limit']:.0f}",
                each["reason"],
            )
            for each in results
        ],
    )
    product = next((each["found"] for each in results if each["name"] == "matrix product" and each["found"]), None)
    for each in results:
        found = each["found"]
        if each["part"] == "tests" and found:
            lines += ["", "## Tests", "", *tests(found)]
        elif each["name"] == "matrix product" and found:
            what = f"{found['precision']}, {'x'.join([str(found['size'])] * 3)}: {found['tflops']:.3g} TFLOP/s."
            copy = f"Copy: {found['copy_gb_per_second']:.3g} GB/s, bytes read and written."
            lines += ["", "## Matrix product", "", f"{what} {copy}"]
        elif each["part"] in ("inference", "training") and found:
            for section in found["sections"]:
                lines += [
                    "",
                    f"## {each['part'].capitalize()}: {section['title']}",
                    "",
                    *bench(found, section, product),
                ]
        elif each["part"] == "recipe" and found:
            lines += ["", f"## Recipe: {each['name']}", "", *run(found)]
    for each in results:
        if each["log"] and each["outcome"] != "passed":
            tail = each["log"].rstrip().splitlines()[-LOG_LINES:]
            lines += ["", f"## Last lines of {each['part']}: {each['name']}", "", "```text", *tail, "```"]
    commands = [f"    {each['command']}" for each in results if each["command"]]
    return "\n".join([*lines, "", "## Commands", "", *commands, "", *LEGEND]) + "\n"


def head(facts: dict[str, Any], seconds: float) -> list[str]:
    """Returns title, hardware and versions."""
    options, machine, device = facts["options"], facts["machine"], facts.get("device")
    arguments = " ".join(filter(None, [options["part"], f"--device {options['device']}", "--tiny" * options["tiny"]]))
    gpu = []
    if device:
        memory = device["memory_bytes"] / 2**30
        gpu = [f"* GPU: {'; '.join(machine.get('gpu') or [device['name']])}; {memory:.0f} GiB, "
               f"{device['multiprocessors']} multiprocessors, CUDA {facts['cuda_version']}"]  # fmt: skip
    unpacked = ", ".join(facts["unpacked"]) or "none"
    return [
        "# GPU check" + (" (a test run at tiny sizes: its figures are meaningless)" if options["tiny"] else ""),
        "",
        f"* Command: `scripts/gpu_check.sh {arguments}`" + (f", commit {facts['commit']}" if facts["commit"] else ""),
        f"* Date: {date.today()}; {seconds:.0f} s, {facts['seconds_to_prepare']:.0f} s of them for the environment",
        *gpu,
        f"* Processor: {machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags'])})",
        f"* Versions: {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}",
        f"* Wheels unpacked: {unpacked}. Kernels in C: {facts['kernels']}.",
        *(["* Interrupted before the end."] if facts.get("stopped") else []),
    ]


def tests(found: dict[str, Any]) -> list[str]:
    """Returns counts, failed tests, and reasons of skipped tests."""
    counts = found["counts"]
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    lines = [f"{passed} passed, {counts['failures'] + counts['errors']} failed, {counts['skipped']} skipped."]
    lines += [f"* failed: {name}" for name in found["failed"]]
    return lines + [f"* skipped: {reason}" for reason in dict.fromkeys(found["skipped"])]


def bench(report: dict[str, Any], section: dict[str, Any], product: dict[str, Any] | None) -> list[str]:
    """Returns a section of `vitkit bench` as a table with TFLOP/s and MFU."""
    passes = 3 if report["kind"] == "training" else 1
    flops = passes * section["shape"]["flops"]
    rows = []
    for row in section["rows"]:
        rate = row["rate"]["median"] if row["rate"] else None
        tflops = None if rate is None else rate * flops / 1e12
        same = product is not None and product["precision"] == row["precision"]
        rows.append(
            (
                row["candidate"],
                number(rate),
                number(tflops),
                f"{tflops / product['tflops']:.1%}" if tflops is not None and product is not None and same else "-",
                "-" if row["fraction_of_limit"] is None else f"{row['fraction_of_limit']:.1%}",
                "-" if row["ratio"] is None else f"{row['ratio']['median']:.2f}x",
                number(row["peak_bytes"] / 2**20) if row["peak_bytes"] else "-",
                row["status"],
            )
        )
    lines = [*table(HEAD, rows), "", f"* {section['conclusion']}"]
    for row in section["rows"]:
        notes = ", ".join(filter(None, [row["reason"], *row["notes"].values()]))
        lines.append(f"* {row['candidate']}: prepared in {row['seconds_to_prepare']:.0f} s; {notes}")
    for row in section["limits"]:
        if row["rate"] and row["precision"] != "copy":
            lines.append(f"* Block products in {row['precision']}: {row['rate']['median'] / 1e12:.3g} TFLOP/s")
    return [*lines, f"* Outputs are compared with those of {section['reference'] or 'nothing: there is no reference'}."]


def run(found: dict[str, Any]) -> list[str]:
    """Returns a training run in three lines."""
    score = {key: value for key, value in found["evaluation"].items() if key not in ("kind", "step", "time")}
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in score.items() if isinstance(value, int | float))
    speed = number(found["images_per_second"])
    mfu = "unknown" if found["mfu"] is None else f"{found['mfu']:.1%}"
    return [
        f"* {found['steps']} steps: loss {found['first_loss']:.3f} to {found['last_loss']:.3f}",
        f"* {speed} images/s (median), MFU {mfu} by the run's own log, {found['memory_gb']} GB at most",
        f"* Evaluation: {numbers or 'none'}",
    ]


def number(value: float | None) -> str:
    """Formats a number with three digits, or as an integer from 100."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Returns a table in Markdown."""
    cells = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in (names, *rows)]
    return [f"| {cells[0]} |", "|" + " --- |" * len(names), *(f"| {row} |" for row in cells[1:])]


LEGEND = [
    "MFU is TFLOP/s of the network over the rate of the matrix product that was measured in the same run, for rows of",
    "the same precision. TFLOP/s counts two operations for each multiply-add of the forward pass, and three times that",
    "for a training step. `of block products` is the same over the rate of a block's own four products, measured in",
    "turn with the candidates. A row is `correct` if its output agrees with the reference as far as its precision",
    "allows; no ratio is given for other rows. Figures belong to this machine on that day.",
]
