"""From options to a report: weights, photos, the race of each section, and the verdict on every contender."""

import datetime
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vitkit.bench import Contender, Job, Options, Plan, _inputs, figures, machine, peers
from vitkit.bench.figures import Row
from vitkit.bench.kinds import kind
from vitkit.bench.race import Failed, Lap, Worker, environment, race


@dataclass(kw_only=True)
class Section:
    """One table: a job, its rows, the limits that were measured beside them, and who is taken to be right."""

    job: Job
    rows: list[Row]
    limits: list[Row]
    reference: str


@dataclass(kw_only=True)
class Report:
    """All sections of a measurement, with the machine, the date, and the command."""

    kind: str
    sections: list[Section]
    machine: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: str
    plan: Plan
    interrupted: bool = False


def options_of(name: str, words: Mapping[str, str], **others: Any) -> Options:
    """The options that comma-separated words mean, the kind's own defaults where one is empty.

    Raises ValueError for an unknown kind, or a batch that is no number.
    """
    chosen: dict[str, Any] = {**kind(name).DEFAULTS, **others}
    for key, text in words.items():
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        if parts:
            chosen[key] = tuple(_positive(part) for part in parts) if key == "batches" else parts
    return Options(kind=name, **chosen)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"a batch is a whole number of images, at least 1, not '{text}'")
    return int(text)


def measure(
    options: Options, plan: Plan, command: Sequence[str] = (), say: Callable[[str], None] = lambda text: None
) -> Report:
    """Runs what is asked for; an interrupt gives a report of what there is.

    Raises ValueError with the nearest names for an unknown kind, model, peer or precision, before anything is run.
    """
    if sys.platform == "win32":
        raise ValueError(
            "bench runs on Linux and macOS: Windows cannot wait for the worker processes with a time limit"
        )
    module = kind(options.kind)
    jobs = module.jobs(options)
    contenders = peers.contenders(options.kind, jobs[0].device, options.peers, options.precisions)
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
        photos = _photos(options, module, Path(folder))
        for job in jobs:
            filled, obstacles = _filled(job, module, Path(folder), photos)
            able = {each: _obstacle(each, obstacles) for each in contenders}
            try:
                found, report.interrupted = section(module, filled, able, plan, say)
            except KeyboardInterrupt:
                report.interrupted = True
            else:
                report.sections.append(found)
            if report.interrupted:
                break
    return report


def _obstacle(contender: Contender, obstacles: Mapping[str, str]) -> str:
    """Why a contender cannot run at all, before it is tried: empty where nothing is known against it."""
    module = peers.peer(contender.peer)
    return peers.missing(module) or obstacles.get(getattr(module, "LAYOUT", "vitkit"), "")


def section(
    module: ModuleType, job: Job, contenders: Mapping[Contender, str], plan: Plan, say: Callable[[str], None]
) -> tuple[Section, bool]:
    """Races the contenders that have no reason against them, and judges what they answer; whether it was
    interrupted.
    """
    reasons = dict(contenders)
    for each in contenders:
        reasons[each] = reasons[each] or _make(job, each, plan, say)
    racing = [each for each in contenders if not reasons[each]]
    limits = module.limits(job, racing)
    variables = environment(job.threads, job.device)
    found = race(job, [*limits, *racing], plan, lambda contender: Worker(variables), say)
    laps = {lap.contender: lap for lap in found.laps}
    reference, answers = _reference(module, job, laps, plan, None if found.interrupted else say)
    rows = [_row(module, each, reasons[each], laps.get(each), answers) for each in contenders]
    bounds = [_row(module, each, "", laps[each], None) for each in limits]
    figures.compare(rows)
    for row in rows:
        if row.rate is not None and row.counts and bounds:
            row.share_of_limit = figures.share(row.rate.median, module.work(job), _bound(bounds, row))
    return Section(job=job, rows=rows, limits=bounds, reference=reference), found.interrupted


def _bound(bounds: Sequence[Row], row: Row) -> float | None:
    """The limit of the row's precision; where there is one limit for all, that."""
    own = [each for each in bounds if each.contender.precision == row.contender.precision]
    chosen = own or (bounds if len(bounds) == 1 else [])
    return chosen[0].rate.median if chosen and chosen[0].rate else None


def _row(module: ModuleType, contender: Contender, reason: str, lap: Lap | None, answers: np.ndarray | None) -> Row:
    known = () if contender.peer == "limit" else peers.peer(contender.peer).NEEDS
    versions = machine.versions(known)
    if lap is None:
        verdict = "missing" if reason.startswith("not installed") else "failed"
        return Row(contender=contender, verdict=verdict, reason=reason, versions=versions)
    row = Row(
        contender=contender,
        verdict="measured" if lap.outputs is None else "unchecked",
        rates=lap.rates,
        rate=figures.spread(lap.rates) if lap.rates else None,
        peak_bytes=lap.peak_bytes,
        seconds_to_prepare=lap.seconds_to_prepare,
        cpu_share=figures.spread(lap.cpu_share).median if lap.cpu_share else None,
        notes=lap.notes,
        versions=versions,
    )
    if lap.failure:
        row.verdict, row.reason = "failed", lap.failure
    elif lap.outputs is not None and answers is not None:
        row.difference, right = module.judge(lap.outputs, answers, contender)
        row.verdict = "right" if right else "wrong"
        row.reason = "" if right else f"{module.DIFFERENCE}: {row.difference:.3g}"
    return row


def _reference(
    module: ModuleType, job: Job, laps: dict[Contender, Lap], plan: Plan, say: Callable[[str], None] | None
) -> tuple[str, np.ndarray | None]:
    """The answers that are taken as right: of a contender of the race, or of one that is run for them alone.

    After an interrupt (`say` is None) none is run.
    """
    variables = environment(job.threads, job.device)

    def start(contender: Contender) -> Worker:
        return Worker(variables)

    for name, precision in module.REFERENCES:
        wanted = Contender(peer=name, precision=precision, module=peers.peer(name).__name__)
        ran = laps.get(wanted)
        if ran is None and say is not None and not peers.missing(peers.peer(name)):
            only = replace(plan, rounds=1, seconds=0.0, warm_up=0)
            ran = race(job, [wanted], only, start, say).laps[0]
        if ran is not None and ran.outputs is not None and not ran.failure:
            return wanted.name, ran.outputs
    return "", None


def _make(job: Job, contender: Contender, plan: Plan, say: Callable[[str], None]) -> str:
    """Lets a peer write the files it reads later, in a process of its own; why that failed, or nothing."""
    if not hasattr(peers.peer(contender.peer), "make"):
        return ""
    say(f"exporting for {contender.name}")
    worker = Worker(environment(job.threads, job.device))
    try:
        worker.ask({"do": "make", "job": job.to_dict(), "contender": contender.to_dict()}, plan.patience)
    except Failed as failure:
        return f"its export failed: {failure}"
    finally:
        worker.stop()
    return ""


def _photos(options: Options, module: ModuleType, folder: Path) -> tuple[str, ...]:
    if not module.NEEDS_PHOTOS:
        return ()
    if options.photos is None:
        return _inputs.write_jpegs(folder / "photos", module.NEEDS_PHOTOS)
    from vitkit.inference import expand

    names = list(expand([options.photos]))[: module.NEEDS_PHOTOS]
    absent = [name for name in names if not Path(name).is_file()]
    if absent:
        raise ValueError(f"there are no photos in '{absent[0]}': give a folder, a file or a glob")
    return tuple(str(Path(name).resolve()) for name in names)


def _filled(job: Job, module: ModuleType, folder: Path, photos: tuple[str, ...]) -> tuple[Job, Mapping[str, str]]:
    """The job with its weights and photos written, and what stands against which layout of the weights."""
    if not module.NEEDS_WEIGHTS:
        return replace(job, photos=photos), {}
    from vitkit.bench import _inputs

    home = folder / "models" / "".join(letter if letter.isalnum() else "-" for letter in job.model)
    config, shape, obstacles = _inputs.write_weights(job.model, home)
    rows, columns = config.image_size
    filled = replace(
        job, folder=str(home), image_size=(rows, columns), classes=config.num_classes, shape=shape, photos=photos
    )
    return filled, obstacles
