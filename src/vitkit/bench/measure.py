"""Runs a benchmark: writes the inputs, measures all candidates, compares their outputs, and creates a report."""

import datetime
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vitkit.bench import Candidate, Job, Options, Plan, _inputs, figures, machine, peers
from vitkit.bench.figures import Row
from vitkit.bench.kinds import kind
from vitkit.bench.rounds import Failed, Result, Worker, environment, run_rounds
from vitkit.config import JsonDict
from vitkit.text import printable


@dataclass(kw_only=True)
class Section:
    """A report section: the job, the rows of the table, the measured limits, and the name of the reference."""

    job: Job
    rows: list[Row]
    limits: list[Row]
    reference: str


@dataclass(kw_only=True)
class Report:
    """The report of a benchmark, with its sections, hardware, date and command."""

    kind: str
    sections: list[Section]
    machine: JsonDict
    versions: dict[str, str]
    date: str
    command: str
    plan: Plan
    interrupted: bool = False


def parse_options(name: str, lists: Mapping[str, str], **others: object) -> Options:
    """Creates `Options` from comma-separated lists of the command line. An empty list selects the defaults.

    Raises ValueError for an unknown kind and an invalid batch size.
    """
    chosen: dict[str, Any] = {**kind(name).DEFAULTS, **others}
    for key, text in lists.items():
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        if parts:
            chosen[key] = tuple(_positive(part) for part in parts) if key == "batches" else parts
    return Options(kind=name, **chosen)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"batch sizes must be integers of at least 1, not '{text}'")
    return int(text)


def measure(
    options: Options, plan: Plan, command: Sequence[str] = (), log: Callable[[str], None] = lambda text: None
) -> Report:
    """Runs a benchmark and returns the report. After an interrupt, the report has the results so far.

    Raises ValueError for an unknown kind, model, peer or precision before anything is run.
    """
    if sys.platform == "win32":
        raise ValueError("bench needs Linux or macOS: Windows does not support timeouts for pipes of worker processes")
    module = kind(options.kind)
    jobs = module.jobs(options)
    candidates = peers.candidates(options.kind, jobs[0].device, options.peers, options.precisions)
    report = Report(
        kind=options.kind,
        sections=[],
        machine=machine.describe(jobs[0].device),
        versions=machine.versions(machine.ALWAYS),
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=shlex.join(command),
        plan=plan,
    )
    with tempfile.TemporaryDirectory(prefix="vitkit-bench-") as folder:
        images = _images(options, module, Path(folder))
        for job in jobs:
            filled, unsupported = _fill(job, module, Path(folder), images)
            reasons = {each: _reason(each, unsupported) for each in candidates}
            try:
                found, report.interrupted = section(module, filled, reasons, plan, log)
            except KeyboardInterrupt:
                report.interrupted = True
            else:
                report.sections.append(found)
            if report.interrupted:
                break
    return report


def _reason(candidate: Candidate, unsupported: Mapping[str, str]) -> str:
    """Returns the reason why a candidate cannot run, such as a missing package, or an empty string if it can."""
    module = peers.peer(candidate.peer)
    return peers.missing(module) or unsupported.get(getattr(module, "LAYOUT", "vitkit"), "")


def section(
    module: ModuleType, job: Job, candidates: Mapping[Candidate, str], plan: Plan, log: Callable[[str], None]
) -> tuple[Section, bool]:
    """Runs the candidates that support the job, and compares their outputs with the reference.

    Returns the section and whether it was interrupted.
    """
    reasons = dict(candidates)
    for each in candidates:
        reasons[each] = reasons[each] or _make(job, each, plan, log)
    runnable = [each for each in candidates if not reasons[each]]
    limits = module.limits(job, runnable)
    variables = environment(job.threads, job.device)
    collected = run_rounds(job, [*limits, *runnable], plan, lambda candidate: Worker(variables), log)
    results = {result.candidate: result for result in collected.results}
    reference, expected = _reference(module, job, results, plan, None if collected.interrupted else log)
    rows = [_row(module, each, reasons[each], results.get(each), expected) for each in candidates]
    bounds = [_row(module, each, "", results[each], None) for each in limits]
    figures.compare(rows)
    for row in rows:
        if row.rate is not None and row.counts and bounds:
            row.fraction_of_limit = figures.fraction_of_limit(row.rate.median, module.work(job), _bound(bounds, row))
    return Section(job=job, rows=rows, limits=bounds, reference=reference), collected.interrupted


def _bound(bounds: Sequence[Row], row: Row) -> float | None:
    """Returns the measured limit for the precision of a row, or the only limit if just one was measured."""
    own = [each for each in bounds if each.candidate.precision == row.candidate.precision]
    chosen = own or (bounds if len(bounds) == 1 else [])
    return chosen[0].rate.median if chosen and chosen[0].rate else None


def _row(
    module: ModuleType, candidate: Candidate, reason: str, result: Result | None, expected: np.ndarray | None
) -> Row:
    known = () if candidate.peer == "limit" else peers.peer(candidate.peer).NEEDS
    versions = machine.versions(known)
    if result is None:
        status = "missing" if reason.startswith("not installed") else "failed"
        return Row(candidate=candidate, status=status, reason=reason, versions=versions)
    row = Row(
        candidate=candidate,
        status="measured" if result.outputs is None else "unchecked",
        rates=result.rates,
        rate=figures.spread(result.rates) if result.rates else None,
        peak_bytes=result.peak_bytes,
        seconds_to_prepare=result.seconds_to_prepare,
        cpu_utilization=figures.spread(result.cpu_utilization).median if result.cpu_utilization else None,
        notes=result.notes,
        versions=versions,
    )
    if result.failure:
        row.status, row.reason = "failed", result.failure
    elif result.outputs is not None and expected is not None:
        row.difference, is_correct = module.check_outputs(result.outputs, expected, candidate)
        row.status = "correct" if is_correct else "wrong"
        row.reason = "" if is_correct else f"{module.DIFFERENCE}: {row.difference:.3g}"
    return row


def _reference(
    module: ModuleType, job: Job, results: dict[Candidate, Result], plan: Plan, log: Callable[[str], None] | None
) -> tuple[str, np.ndarray | None]:
    """Returns the name and outputs of the reference candidate. The candidate is run once if it was not measured.

    After an interrupt (`log` is None) nothing is run.
    """
    variables = environment(job.threads, job.device)

    def start(candidate: Candidate) -> Worker:
        return Worker(variables)

    for name, precision in module.REFERENCES:
        wanted = Candidate(peer=name, precision=precision, module=peers.peer(name).__name__)
        ran = results.get(wanted)
        if ran is None and log is not None and not peers.missing(peers.peer(name)):
            only = replace(plan, rounds=1, seconds=0.0, warm_up=0)
            ran = run_rounds(job, [wanted], only, start, log).results[0]
        if ran is not None and ran.outputs is not None and not ran.failure:
            return wanted.name, ran.outputs
    return "", None


def _make(job: Job, candidate: Candidate, plan: Plan, log: Callable[[str], None]) -> str:
    """Exports the model for a peer library in a separate process. Returns the error message, or "" on success."""
    if not hasattr(peers.peer(candidate.peer), "make"):
        return ""
    log(f"exporting for {candidate.name}")
    worker = Worker(environment(job.threads, job.device))
    try:
        worker.request({"do": "make", "job": job.to_dict(), "candidate": candidate.to_dict()}, plan.timeout)
    except Failed as failure:
        return f"the export failed: {failure}"
    finally:
        worker.stop()
    return ""


def _images(options: Options, module: ModuleType, folder: Path) -> tuple[str, ...]:
    if not module.NUM_IMAGES:
        return ()
    if options.images is None:
        return _inputs.write_jpegs(folder / "images", module.NUM_IMAGES)
    from vitkit.inference import expand

    names = list(islice(expand([options.images]), module.NUM_IMAGES))
    absent = [name for name in names if not isinstance(name, str) or not Path(name).is_file()]
    if absent:
        raise ValueError(
            f"no images were found in '{printable(absent[0])}'; expected an image file, a folder or a glob"
        )
    return tuple(str(Path(str(name)).resolve()) for name in names)


def _fill(job: Job, module: ModuleType, folder: Path, images: tuple[str, ...]) -> tuple[Job, Mapping[str, str]]:
    """Saves the weights of a job. Returns the completed job, and an error message per unsupported checkpoint layout."""
    if not module.NEEDS_WEIGHTS:
        return replace(job, images=images), {}
    home = folder / "models" / "".join(letter if letter.isalnum() else "-" for letter in job.model)
    config, shape, unsupported = _inputs.write_weights(job.model, home)
    rows, columns = config.image_size
    filled = replace(
        job, folder=str(home), image_size=(rows, columns), classes=config.num_classes, shape=shape, images=images
    )
    return filled, unsupported
