"""Trains a run in a folder: validates it, starts or resumes it, and writes its report."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from vitkit import distributed, objectives
from vitkit.data import Source, fixes
from vitkit.data.augment import Transform
from vitkit.data.loader import check_mixing, check_readable
from vitkit.data.unreadable import check_skipped
from vitkit.training import checks, trial
from vitkit.training import plan as plans
from vitkit.training.adapt import open_data
from vitkit.training.checkpointing.files import latest_step
from vitkit.training.checkpointing.saving import CheckpointNotSaved, CheckpointSaver
from vitkit.training.events import Events, check_loggers, open_loggers, read
from vitkit.training.loop import Training, TrainingStopped
from vitkit.training.pace import Pace
from vitkit.training.plan import Plan
from vitkit.training.run import Run, RunFolder
from vitkit.training.session import Interrupted, TrainingSession, data_stream
from vitkit.training.setup import build_training, process_settings
from vitkit.training.summary import write_report
from vitkit.training.targets import with_task
from vitkit.training.trial import explained
from vitkit.training.undo import undone
from vitkit.training.utilization import peak

# Shorter runs are not measured, because the trial would take a large part of their time.
FEWEST_STEPS = 10
# Number of schedule steps after the warm-up, in the trial of a run with a length in minutes.
PROVISIONAL = 1000


@dataclass(frozen=True)
class Result:
    """Result of `train`: the run folder, and the metric and training step of the saved model.

    `main` is True in the process of rank 0, which writes the files. `note` says why the run stopped early, `unreadable`
    names the unreadable images.
    """

    folder: Path
    score: float
    step: int
    main: bool = True
    note: str = ""
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A validated run with its training and validation images. The task of its model is set from the data."""

    run: Run
    source: Source
    validation: Source


def train(run: Run, folder: str | Path, *, console: Console | None = None, keep_memory: bool = False) -> Result:
    """Starts or resumes a training run in a folder. If the run is complete, only writes the report.

    If `run` has more `steps`, `epochs` or `minutes` than the run in the folder, the training continues. From the next
    step, the learning rate follows the schedule of the new length. Only the fields in `run.CHANGEABLE` and
    `run.CHANGEABLE_WITH_LENGTH` and the fields of `hardware` may differ from the run in the folder.

    The plan of the run (`plan`) and its progress are shown on `console`. With `keep_memory`, a process that trains on
    the CPU retains freed memory (`vitkit.memory.kept`), as in commands. Under torchrun, every process must call this
    function, and only rank 0 writes files.

    Raises ValueError before training if the run is invalid, has fewer steps than were already trained, or if the folder
    contains another run. If the run fails before its first step, the folder is restored. Raises TrainingStopped if the
    loss is not finite or the memory is too small. Raises Interrupted after SIGTERM or Ctrl-C, when a checkpoint is
    saved.
    """
    started = plans.now()
    if not run.data.source:
        raise ValueError(f"the run '{run.name}' has no training data; set --data, as in --data parquet:/data/imagenet")
    files = RunFolder(Path(folder))
    random = torch.random.fork_rng(devices=[])
    group = distributed.process_group(run.hardware.device, run.hardware.parallel)
    with group as device, random, process_settings(run, device, keep_memory=keep_memory):
        distributed.on_rank_zero(lambda: files.check(run))
        ready = prepare(run, files, device)
        plan, training = planned(run, ready, files, device, started=started, measure=console is not None)
        # After all checks and the trial, so that an invalid run writes nothing.
        session = start(run, ready, plan, training, files, started=started, console=console)
        main = distributed.is_main_process()
        if main:
            write_report(files, session.saved)
        distributed.broadcast(0.0)
    note = session.stopping.reason if session.stopping.exhausted and training.step < training.total else ""
    return Result(files.path, session.score, session.best_step, main, note, tuple(session.named))


def start(
    run: Run,
    ready: Prepared,
    plan: Plan,
    training: Training,
    files: RunFolder,
    *,
    started: float,
    console: Console | None,
) -> TrainingSession:
    """Creates the run folder, starts or resumes the run, and returns the session after training.

    If the run fails before its first step, the folder is restored.
    """
    sessions: list[TrainingSession] = []
    files_before = (files.config, files.plan) if files.trained else (files.config, files.plan, files.log)
    undo = undone(files.path, lambda: any(each.training.step for each in sessions), files_before)
    before = round(distributed.broadcast(float(steps_before(files, len(ready.source)))))
    with distributed.exit_after_rank_zero(TrainingStopped, Interrupted, CheckpointNotSaved), undo:
        distributed.on_rank_zero(lambda: files.create(run))
        with CheckpointSaver(files.checkpoints, run.hardware) as saver:
            pace = Pace(plan, files.plan, minutes=run.minutes, started=started, before=trained_seconds(files))
            session = TrainingSession(training, files, ready.validation, saver, pace)
            sessions.append(session)
            session.resume()
            training.total = plan.steps_after(training.step)
            changed = session.change_config(run, before or training.total)
            distributed.on_rank_zero(lambda: plans.save(plan, files.plan))
            with open_events(run, training, files, pace, console) as events:
                if changed:
                    events.write("changed", training.step, **changed)
                    events.print(f"step {training.step:>6}   {changed['note']}")
                if training.step == 0 and (note := fixes.summary(ready.source, ready.validation)):
                    events.write("corrections", training.step, note=note)
                    events.print(note)
                with explained(run.batch_size, next(training.objective.parameters()).device):
                    session.run(ready.source, events)
    return session


def open_events(run: Run, training: Training, files: RunFolder, pace: Pace, console: Console | None) -> Events:
    """Opens the log, the loggers and the progress bar of a run. Only rank 0 writes to them."""
    main = distributed.is_main_process()
    device = next(training.objective.parameters()).device
    return Events(
        files.log if main else Path(os.devnull),
        total=training.total,
        batch_size=run.batch_size,
        every=run.hardware.log_every,
        console=console if main else None,
        loggers=open_loggers(run, files.path, training.step) if main else (),
        peak=peak(device, run.precision, tf32=run.hardware.tf32),
        remaining=pace.remaining,
    )


def prepare(run: Run, files: RunFolder, device: torch.device) -> Prepared:
    """Validates a run and its data. Raises ValueError if they cannot be combined."""
    checks.check_settings(run, device)
    check_loggers(run)
    source, validation = open_data(run)
    run = with_task(run, source)
    checks.check(run, source, validation)
    run = replace(run, objective=objectives.fitted(run.objective, source))
    check_mixing(run.augment, data_stream(run))
    for each in (source, validation):
        check_skipped(each, run.data.max_unreadable)
    transform = Transform(run.processor, run.augment, run.data.limits)
    distributed.on_rank_zero(lambda: check_readable(source, transform, "training"))
    distributed.on_rank_zero(lambda: check_readable(validation, transform, "validation"))
    distributed.on_rank_zero(lambda: checks.check_disk_space(run, files.path))
    return Prepared(run, source, validation)


def planned(
    run: Run, ready: Prepared, files: RunFolder, device: torch.device, *, started: float, measure: bool
) -> tuple[Plan, Training]:
    """Returns the plan of a run and a new `Training`.

    The plan is read from the run folder or made by a trial. A trial is run if the plan depends on measured times, or if
    `measure` is True and the run is new. The trial trains a separate model, so that the run starts from the initial
    weights.
    """
    images = len(ready.source)
    saved = saved_plan(files, run, images)
    if saved is not None:
        return saved, build_training(saved.applied(ready.run), saved.steps, device)
    steps = PROVISIONAL + 2 * run.schedule.warmup if run.minutes is not None else run.total_steps(images)
    training = build_training(replace(ready.run, steps=steps, epochs=None, minutes=None), steps, device)
    open_choice = run.minutes is not None or (run.evaluate_every is None and steps >= FEWEST_STEPS)
    costs, tried = None, open_choice or (measure and steps >= FEWEST_STEPS and not files.trained)
    if tried:
        costs = trial.measure(training, ready.source, ready.validation, data_stream(run))
    if costs is None and run.minutes is not None:
        raise TrainingStopped("the speed of the run could not be measured, because its first steps fail; set steps")
    spent = plans.Spent(
        setup=distributed.broadcast(plans.now() - started),
        seconds=distributed.broadcast(trained_seconds(files)),
        steps=round(distributed.broadcast(float(latest_step(files.checkpoints)))),
    )
    plan = plans.make(run, images, len(ready.validation), costs, spent)
    if tried:
        del training  # free its memory before another one is built
        return plan, build_training(plan.applied(ready.run), plan.steps, device)
    training.run, training.total = plan.applied(ready.run), plan.steps
    return plan, training


def saved_plan(files: RunFolder, run: Run, images: int) -> Plan | None:
    """Returns the plan in a run folder if it was made for this run, otherwise None.

    Only rank 0 reads the file.
    """
    texts: list[str] = []

    def read_plan() -> None:
        plan = plans.load(files.plan, run, images)
        texts.extend([] if plan is None else [plans.to_json(plan)])

    distributed.on_rank_zero(read_plan)
    found = distributed.all_gather(tuple(texts))
    return plans.from_json(found[0]) if found else None


def trained_seconds(files: RunFolder) -> float:
    """Returns the training time of earlier processes in seconds, from the log.

    Returns 0 on all ranks except 0.
    """
    return plans.seconds_in_log(read(files.log)) if distributed.is_main_process() else 0.0


def steps_before(files: RunFolder, images: int) -> int:
    """Returns the planned or requested number of steps of the run in a folder, or 0 for a new folder.

    Only rank 0 reads the folder. Returns 0 on all other ranks.
    """
    if not distributed.is_main_process() or not files.trained:
        return 0
    run = files.run()
    saved = plans.load(files.plan, run, images)
    if saved is not None:
        return saved.steps_after(saved.steps)
    return 0 if run.minutes is not None else run.total_steps(images)
