"""Trains a run in a folder: validates it, starts or resumes it, and writes its report."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from vitkit import distributed, objectives
from vitkit.data import Source
from vitkit.data.augment import Transform
from vitkit.data.loader import check_mixing, check_readable
from vitkit.data.unreadable import check_skipped
from vitkit.training import checks
from vitkit.training.adapt import open_data
from vitkit.training.checkpointing.saving import CheckpointNotSaved, CheckpointSaver
from vitkit.training.events import Events, check_loggers, open_loggers
from vitkit.training.loop import Training, TrainingStopped
from vitkit.training.run import Run, RunFolder
from vitkit.training.session import Interrupted, TrainingSession, data_stream
from vitkit.training.setup import build_training, process_settings
from vitkit.training.summary import write_report
from vitkit.training.targets import with_task
from vitkit.training.utilization import peak


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


def train(run: Run, folder: str | Path, *, console: Console | None = None, keep_memory: bool = False) -> Result:
    """Starts or resumes a training run in a folder. For a completed run, only the report is written.

    A run with more `steps` or `epochs` than the one in the folder trains on: from the next step, the learning rate
    follows the schedule of the new length. `run.CHANGEABLE` and `run.CHANGEABLE_WITH_LENGTH` are all fields that may
    change, besides those of `hardware`.

    `console` shows the progress. With `keep_memory` a process that trains on the CPU keeps freed memory
    (`vitkit.memory.kept`), as the commands do. Under torchrun every process calls this function, and rank 0 writes.

    Raises ValueError before training if the run is invalid, is shorter than what was trained, or if the folder contains
    another run, TrainingStopped for a
    loss that is not finite, and Interrupted after SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    if not run.data.source:
        raise ValueError(f"the run '{run.name}' has no training data; set --data, as in --data parquet:/data/imagenet")
    files = RunFolder(Path(folder))
    random = torch.random.fork_rng(devices=[])
    group = distributed.process_group(run.hardware.device, run.hardware.parallel)
    with group as device, random, process_settings(run, device, keep_memory=keep_memory):
        distributed.on_rank_zero(lambda: files.check(run))
        training, source, validation = prepare(run, files, device)
        # After all checks, so that an invalid run writes nothing.
        distributed.on_rank_zero(lambda: files.create(run))
        agreed = distributed.exit_after_rank_zero(TrainingStopped, Interrupted, CheckpointNotSaved)
        with agreed, CheckpointSaver(files.checkpoints, run.hardware) as saver:
            session = TrainingSession(training, files, validation, saver)
            session.resume()
            changed = session.change_config(run, len(source))
            with Events(
                files.log if distributed.is_main_process() else Path(os.devnull),
                total=training.total,
                batch_size=run.batch_size,
                every=run.hardware.log_every,
                console=console if distributed.is_main_process() else None,
                loggers=open_loggers(run, files.path, training.step) if distributed.is_main_process() else (),
                peak=peak(device, run.precision, tf32=run.hardware.tf32),
            ) as events:
                if changed:
                    events.write("changed", training.step, **changed)
                    events.print(f"step {training.step:>6}   {changed['note']}")
                session.run(source, events)
        main = distributed.is_main_process()
        if main:
            write_report(files)
        distributed.broadcast(0.0)
    note = session.stopping.reason if session.stopping.exhausted and training.step < training.total else ""
    return Result(files.path, session.score, session.best_step, main, note, tuple(session.named))


def prepare(run: Run, files: RunFolder, device: torch.device) -> tuple[Training, Source, Source]:
    """Validates a run, and returns its initial training state, training data and validation data."""
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
    return build_training(run, run.total_steps(len(source)), device), source, validation
