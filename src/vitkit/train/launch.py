"""SIGTERM and Ctrl-C ask a run to save and end; the handler only takes a note."""

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from rich.console import Console

from vitkit import checkpoints, distributed, evaluate, objectives
from vitkit.data import Source, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, check_mixing, evaluation_batches, training_batches
from vitkit.models import Backbone
from vitkit.train import checks
from vitkit.train.checkpointing.saving import NotSaved, Saver, like
from vitkit.train.events import Events, check_loggers, open_loggers, read, rewind
from vitkit.train.loop import Training, TrainingStopped, fit, places
from vitkit.train.metrics import Metrics
from vitkit.train.run import Run, RunFolder
from vitkit.train.setup import begin, judged, machine
from vitkit.train.summary import write_report
from vitkit.train.utilization import peak


class Interrupted(KeyboardInterrupt):
    """The run was asked to end, has saved, and goes on from there when it is started again."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; saved, the same command goes on")
        self.exit_code = 128 + number


class StopRequest:
    """Takes SIGTERM and SIGINT while it is entered; a second Ctrl-C ends at once. Only the main thread gets signals."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


# A run whose pictures cannot be read more often than this learns from something else than it says.
MOST_UNREADABLE = 0.01


@dataclass(frozen=True)
class Result:
    """What a run came to: its folder, the score of the model that was kept, and after which step that was.

    `main` says whether this process is the one that writes, where several train together.
    """

    folder: Path
    score: float
    step: int
    main: bool = True


def train(run: Run, folder: str | Path, *, console: Console | None = None, keep_memory: bool = False) -> Result:
    """Trains a run in its folder, or goes on where it was stopped; a run that is over is only reported.

    `console` shows the progress. `keep_memory` keeps freed memory with the process while a CPU trains, as the commands
    do (`vitkit.memory.kept`). Under torchrun every process calls it, and the first writes. Raises ValueError before
    anything is computed for a run that does not fit together or a folder that holds another; TrainingStopped for a loss
    that is not finite; Interrupted, saved, for SIGTERM and Ctrl-C.
    """
    if not run.data.source:
        raise ValueError(f"'{run.name}' needs pictures: say --data SOURCE, as in --data parquet:/data/imagenet")
    place = RunFolder(Path(folder))
    random = torch.random.fork_rng(devices=[])
    group = distributed.process_group(run.machine.device, run.machine.parallel)
    with group as device, random, machine(run, device, keep_memory=keep_memory):
        distributed.on_rank_zero(lambda: place.refuse(run))
        training, training_source, validation = prepared(run, place, device)
        # All that can be refused has been: nothing is written before.
        distributed.on_rank_zero(lambda: place.claim(run))
        agreed = distributed.exit_after_rank_zero(TrainingStopped, Interrupted, NotSaved)
        with agreed, Saver(place.states, run.machine) as saver:
            session = Session(training, place, validation, saver)
            session.resume()
            with Events(
                place.log if distributed.is_main_process() else Path(os.devnull),
                total=training.total,
                batch_size=run.batch_size,
                every=run.machine.log_every,
                console=console if distributed.is_main_process() else None,
                loggers=open_loggers(run, place.path, training.step) if distributed.is_main_process() else (),
                peak=peak(device, run.precision, tf32=run.machine.tf32),
            ) as events:
                session.go(training_source, events)
        main = distributed.is_main_process()
        if main:
            write_report(place)
        distributed.broadcast(0.0)
    return Result(place.path, session.score, session.kept_step, main)


def prepared(run: Run, place: RunFolder, device: torch.device) -> tuple[Training, Source, Source]:
    """A run before its first step, and the pictures that it learns from and is judged by; ValueError for one that
    cannot be.
    """
    checks.refuse_pairs(run, device)
    check_loggers(run)
    source, validation = train_and_val(
        run.data.source, val=run.data.val, held_out=run.data.held_out, seed=run.data.split_seed
    )
    checks.check(run, source, validation)
    run = replace(run, objective=objectives.fitted(run.objective, source))
    check_mixing(run.augment, stream(run))
    distributed.on_rank_zero(lambda: checks.refuse_full_disk(run, place.path))
    return begin(run, run.total_steps(len(source)), device), source, validation


class Session:
    """One process's part of a run, from start or resume to the end or a stop."""

    def __init__(self, training: Training, place: RunFolder, validation: Source, saver: Saver):
        self.training = training
        self.place = place
        self.validation = validation
        self.saver = saver
        self.score = float("-inf")
        self.kept_step = 0
        self.unreadable = 0
        self.told = -1  # the phase of the objective that was logged with its cost

    def resume(self) -> None:
        """Goes to the newest whole state, if there is one, and forgets what was logged after it."""
        saved = self.saver.newest(like(places(self.training)))
        if saved is not None:
            self.training.load_state_dict(saved["training"])
            self.score, self.kept_step, self.unreadable = saved["score"], saved["kept_step"], saved["unreadable"]
        costs = []
        if distributed.is_main_process():
            rewind(self.place.log, self.training.step)
            costs = [event for event in read(self.place.log) if event["kind"] == "cost"]
        # Counted once in a phase: the step that is counted is not compiled, and no other may differ when a run goes on.
        self.training.flops = distributed.broadcast(costs[-1]["flops_per_image"] if costs else 0.0) * self.share or None
        self.training.counted = self.told = round(distributed.broadcast(costs[-1].get("phase", 0) if costs else -1))

    @property
    def share(self) -> float:
        """The pictures of a batch that are this process's."""
        return self.training.run.batch_size / distributed.world_size()

    def save(self, *, last: bool) -> None:
        """Writes the state; all processes take part. After the `last` one the run ends."""
        content = {
            "training": self.training.state_dict(),
            "score": self.score,
            "kept_step": self.kept_step,
            "unreadable": self.unreadable,
        }
        self.saver.save(self.training.step, content, last=last)

    def go(self, source: Source, events: Events) -> None:
        """Trains to the end."""
        training, run = self.training, self.training.run
        events.write(
            "start" if training.step == 0 else "resume",
            training.step,
            torch=torch.__version__,
            python=platform.python_version(),
            device=str(next(training.objective.parameters()).device),
            total=training.total,
            pictures=len(source),
            held_out=len(self.validation),
            peak_flops=events.peak.rate if events.peak else None,
            peak_source=events.peak.source if events.peak else None,
        )
        transform = Transform(run.processor, run.augment)
        batches = training_batches(source, transform, stream(run), consumed=training.consumed)
        with StopRequest() as stop:
            try:
                fit(training, batches, self.after(events, stop, source))
            except TrainingStopped as error:
                events.write("stopped", training.step, reason=str(error))
                try:
                    self.save(last=True)
                except NotSaved as failure:
                    raise TrainingStopped(f"{error}; {failure}") from None
                raise
            number = distributed.all_reduce_max(stop.number or 0)
            if number and training.step < training.total:
                raise Interrupted(number, training.step)

    def after(self, events: Events, stop: StopRequest, source: Source) -> Callable[[Metrics, Batch], bool]:
        """What is done between two steps."""
        training, run = self.training, self.training.run

        def after(scalars: Metrics, batch: Batch) -> bool:
            step, over = training.step, training.step == training.total
            if training.counted != self.told:
                self.told = training.counted
                events.write("cost", step, flops_per_image=(training.flops or 0) / self.share, phase=self.told)
            events.flops = training.flops
            events.step(step, scalars)
            unreadable, stopping = distributed.all_reduce_sum(len(batch.replaced), int(stop.number is not None))
            self.count_unreadable(unreadable, batch, events)
            if over or step % run.evaluate_every == 0:
                self.judge(events, source)
                stopping = distributed.any_true(stop.number is not None)  # it may have come during the evaluation
            if over or stopping or step % run.machine.save_every == 0:
                self.save(last=over or bool(stopping))
                events.pause()
            return bool(stopping)

        return after

    def count_unreadable(self, found: int, batch: Batch, events: Events) -> None:
        """Logs pictures that were replaced, in all processes together; TrainingStopped where there are too many."""
        if found:
            self.unreadable += found
            events.write("unreadable", self.training.step, number=found, pictures=list(batch.replaced))
            if self.unreadable > max(10, MOST_UNREADABLE * self.training.consumed):
                last = f", the last: {batch.replaced[-1]}" if batch.replaced else ""
                raise TrainingStopped(
                    f"{self.unreadable} of {self.training.consumed} training pictures could not be read{last}"
                )

    def judge(self, events: Events, source: Source) -> None:
        """Evaluates the model, and keeps it if it is the best so far, or the last is wanted."""
        run, step = self.training.run, self.training.step
        model = judged(self.training)
        value = 0.0
        if distributed.is_main_process():
            numbers = evaluate.evaluate(subject_of(run, model, self.validation, source), run.evaluators)
            if run.score not in numbers:
                raise ValueError(f"models are judged by '{run.score}', but there is {', '.join(numbers)}")
            value = numbers[run.score]
            events.write("evaluation", step, **numbers)
        value = distributed.broadcast(value)
        if value > self.score or run.keep == "last":
            self.score, self.kept_step = value, step
            if distributed.is_main_process():
                keep(run, model, self.validation.classes, self.place.best)
        events.say(f"step {step:>6} of {self.training.total}   {run.score} {value:.2%}")
        events.pause()


def stream(run: Run) -> Stream:
    """How the training samples of a run come to this process; ValueError where they cannot be dealt out evenly."""
    return Stream(
        batch_size=run.batch_size,
        seed=run.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        workers=run.machine.workers,
    )


def subject_of(run: Run, backbone: Backbone, source: Source, training: Source) -> evaluate.ModelOutputs:
    """A model with the pictures that a run judges it by, and those (unchanged) that k-NN and the like learn from."""

    def batches(of: Source) -> Iterable[Batch]:
        transform = Transform(run.processor)
        return evaluation_batches(of, transform, batch_size=run.batch_size, workers=run.machine.workers)

    return evaluate.ModelOutputs(backbone, lambda: batches(source), source.classes, training=lambda: batches(training))


def keep(run: Run, backbone: Backbone, classes: tuple[str, ...], folder: Path) -> None:
    """Writes the model as a checkpoint folder with its processor and labels."""
    checkpoint = checkpoints.Checkpoint(model=backbone, processor=run.processor, labels=classes)
    checkpoints.save(checkpoint, folder, overwrite=True)
