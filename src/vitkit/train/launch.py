"""From a `Run` to a run folder: builds the parts, goes on from the newest state, trains, judges, keeps the best,
reports.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from vitkit import checkpoints, evaluate, models, objectives, parallel
from vitkit.data import Source, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, evaluation_batches, training_batches
from vitkit.models import Backbone
from vitkit.train import optim, report, state
from vitkit.train.events import Events, rewind
from vitkit.train.folder import RunFolder
from vitkit.train.loop import Training, TrainingStopped, fit
from vitkit.train.run import Run
from vitkit.train.signals import Interrupted, StopRequest

# A run whose pictures cannot be read more often than this learns from something else than it says.
MOST_UNREADABLE = 0.01


@dataclass(frozen=True)
class Result:
    """What a run came to: its folder, the score of the model that was kept, and after which step that was."""

    folder: Path
    score: float
    step: int


def train(run: Run, folder: str | Path, *, console: Console | None = None) -> Result:
    """Trains a run in its folder, or goes on where it was stopped; a run that is over is only reported.

    `console` shows the progress. Raises ValueError before anything is computed for a run that does not fit together or
    a folder that holds another; TrainingStopped for a loss that is not finite; Interrupted, saved, for SIGTERM and
    Ctrl-C.
    """
    training_source, validation = train_and_val(
        run.data.source, val=run.data.val, held_out=run.data.held_out, seed=run.data.split_seed
    )
    check(run, training_source)
    device = parallel.start(run.machine.device)
    place = RunFolder(Path(folder))
    place.claim(run)
    with torch.random.fork_rng(devices=[]), threads(run.machine.threads):
        training = begin(run, run.total_steps(len(training_source)), device)
        session = Session(training, place, validation)
        session.resume()
        total = training.total
        with Events(
            place.log, total=total, batch_size=run.batch_size, every=run.machine.log_every, console=console
        ) as events:
            session.go(training_source, events)
        report.write(place)
    return Result(place.path, session.score, session.kept_step)


@contextmanager
def threads(num: int | None) -> Iterator[None]:
    """That many threads of torch on the CPU while it is entered; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(num or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(run: Run, source: Source) -> None:
    """Raises ValueError where model, processor and pictures do not fit together."""
    classes = len(source.classes)
    if run.model.num_classes != classes:
        raise ValueError(f"the model has {run.model.num_classes} classes, '{run.data.source}' has {classes}")
    if run.model.channels != run.processor.channels:
        raise ValueError(f"the model takes {run.model.channels} channels, the processor gives {run.processor.channels}")
    if tuple(run.model.image_size) != tuple(run.processor.size):
        raise ValueError(f"the model takes images of {run.model.image_size}, the processor gives {run.processor.size}")
    for name in run.evaluators:
        evaluate.evaluator(name)


def begin(run: Run, total: int, device: torch.device) -> Training:
    """The start of a run: fresh weights from its seed, and their optimiser."""
    torch.manual_seed(run.seed)
    # Made on the CPU, so that a seed means the same weights on every device.
    objective = objectives.build(run.objective, models.build(run.model)).to(device)
    return Training(run, objective, optim.build(run.optimizer, objective), total)


class Session:
    """One process's part of a run, from start or resume to the end or a stop."""

    def __init__(self, training: Training, place: RunFolder, validation: Source):
        self.training = training
        self.place = place
        self.validation = validation
        self.score = float("-inf")
        self.kept_step = 0
        self.unreadable = 0

    def resume(self) -> None:
        """Goes to the newest whole state, if there is one, and forgets what was logged after it."""
        saved = state.load_newest(self.place.states)
        if saved is not None:
            self.training.load_state_dict(saved["training"])
            self.score, self.kept_step, self.unreadable = saved["score"], saved["kept_step"], saved["unreadable"]
        rewind(self.place.log, self.training.step)

    def save(self) -> None:
        """Writes the state."""
        content = {
            "training": self.training.state_dict(),
            "score": self.score,
            "kept_step": self.kept_step,
            "unreadable": self.unreadable,
        }
        state.save(self.place.states, self.training.step, content, keep=self.training.run.machine.keep)

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
        )
        stream = Stream(
            batch_size=run.batch_size,
            seed=run.seed,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            workers=run.machine.workers,
        )
        transform = Transform(run.processor, run.augment)
        batches = training_batches(source, transform, stream, consumed=training.consumed)
        with StopRequest() as stop:
            try:
                fit(training, batches, self.after(events, stop))
            except TrainingStopped as error:
                events.write("stopped", training.step, reason=str(error))
                self.save()
                raise
            if stop.number is not None and training.step < training.total:
                raise Interrupted(stop.number, training.step)

    def after(self, events: Events, stop: StopRequest) -> Callable[[dict[str, float], Batch], bool]:
        """What is done between two steps."""
        training, run = self.training, self.training.run

        def after(scalars: dict[str, float], batch: Batch) -> bool:
            step, over = training.step, training.step == training.total
            events.step(step, scalars)
            self.count_unreadable(batch, events)
            if over or step % run.evaluate_every == 0:
                self.judge(events)
            stopping = parallel.any_true(stop.number is not None)
            if over or stopping or step % run.machine.save_every == 0:
                self.save()
                events.pause()
            return stopping

        return after

    def count_unreadable(self, batch: Batch, events: Events) -> None:
        """Logs pictures that were replaced; TrainingStopped where there are too many."""
        if batch.replaced:
            self.unreadable += len(batch.replaced)
            events.write("unreadable", self.training.step, pictures=list(batch.replaced))
            if self.unreadable > max(10, MOST_UNREADABLE * self.training.consumed):
                raise TrainingStopped(
                    f"{self.unreadable} of {self.training.consumed} training pictures could not be read, "
                    f"the last: {batch.replaced[-1]}"
                )

    def judge(self, events: Events) -> None:
        """Evaluates the model, and keeps it if it is the best so far, or the last is wanted."""
        run, backbone = self.training.run, self.training.objective.backbone
        subject = subject_of(run, backbone, self.validation)
        numbers = evaluate.evaluate(subject, run.evaluators)
        if run.score not in numbers:
            raise ValueError(f"models are judged by '{run.score}', but there is {', '.join(numbers)}")
        step, value = self.training.step, numbers[run.score]
        if value > self.score or run.keep == "last":
            self.score, self.kept_step = value, step
            keep(run, backbone, self.validation.classes, self.place.best)
        events.write("evaluation", step, **numbers)
        events.say(f"step {step:>6} of {self.training.total}   {run.score} {value:.2%}")
        events.pause()


def subject_of(run: Run, backbone: Backbone, source: Source) -> evaluate.Subject:
    """A model with the pictures that a run judges it by."""

    def batches() -> Iterable[Batch]:
        transform = Transform(run.processor)
        return evaluation_batches(source, transform, batch_size=run.batch_size, workers=run.machine.workers)

    return evaluate.Subject(backbone, batches, source.classes)


def keep(run: Run, backbone: Backbone, classes: tuple[str, ...], folder: Path) -> None:
    """Writes the model as a checkpoint folder with its processor and labels."""
    checkpoint = checkpoints.Checkpoint(model=backbone, processor=run.processor, labels=classes)
    checkpoints.save(checkpoint, folder, overwrite=True)
