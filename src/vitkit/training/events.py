"""Logging of a run: log.jsonl, the progress bar, TensorBoard, Weights & Biases and MLflow."""

import importlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitkit import atomic, memory
from vitkit.config import JsonDict
from vitkit.logs import LOGGER
from vitkit.regular import read_text
from vitkit.training import plan as plans
from vitkit.training import run as runs
from vitkit.training.run import Run
from vitkit.training.utilization import Peak

# First and longest interval between two progress lines without a terminal, in seconds.
LINE_SECONDS = (5.0, 60.0)


class Logger(Protocol):
    """Protocol of the loggers, which receive the metrics of a run."""

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Logs the metrics of a training step (`kind="step"`) or of an evaluation (`kind="evaluation"`)."""

    def close(self) -> None:
        """Closes the logger after the run."""


class TensorBoard:
    """Writes TensorBoard event files. If a run resumes at `step`, earlier events of later steps are hidden."""

    def __init__(self, folder: Path, step: int = 0):
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, and not needed for --help

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Logs each metric under the name `KIND/NAME`, such as `step/loss`."""
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Writes buffered events and closes the event file."""
        self.writer.close()


class WeightsAndBiases:
    """Logs to a Weights & Biases run with the name of the run folder. A resumed run logs to the same W&B run."""

    def __init__(self, run: Run, folder: Path):
        module = _import("wandb")
        name = folder.resolve().name
        self.run = module.init(
            project="vitkit", name=name, id=name, resume="allow", dir=str(folder), config=runs.to_dict(run)
        )

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Logs each metric under the name `KIND/NAME`, such as `step/loss`."""
        self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the W&B run."""
        self.run.finish()


class MLflow:
    """Logs to an MLflow run with the name of the run folder, on the tracking server configured in MLflow."""

    def __init__(self, run: Run, folder: Path):
        self.module = _import("mlflow")
        self.module.set_experiment("vitkit")
        self.module.start_run(run_name=folder.resolve().name)

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Logs each metric under the name `KIND/NAME`, such as `step/loss`."""
        self.module.log_metrics({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the MLflow run."""
        self.module.end_run()


LOGGERS: dict[str, Callable[[Run, Path], Logger]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_loggers(run: Run) -> None:
    """Raises ValueError if a logger is unknown, and ImportError if the package of a logger is not installed."""
    unknown = [name for name in run.hardware.loggers if name not in LOGGERS]
    if unknown:
        known = f"the loggers are {', '.join(LOGGERS)}; TensorBoard is always on"
        raise ValueError(f"unknown logger '{unknown[0]}'; {known}")
    for name in run.hardware.loggers:
        _import(name)


def open_loggers(run: Run, folder: Path, step: int = 0) -> tuple[Logger, ...]:
    """Returns the TensorBoard logger and the `hardware.loggers` of a run that starts or resumes at `step`."""
    requested = tuple(LOGGERS[name](run, folder) for name in run.hardware.loggers)
    return (TensorBoard(folder, step), *requested)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"hardware.loggers contains {name}, which is not installed; run pip install {name}"
        ) from error


class Events:
    """Context manager for the event log and the progress bar of a run.

    The progress bar is shown if `console` is a terminal. Otherwise, one line is printed per evaluation, and lines with
    the speed and the remaining time at intervals of 5 to 60 seconds. `peak` is the peak performance of the device of
    this process. If it is given, the model FLOPs utilization (`mfu`) is shown and logged. `remaining` is a function of
    the step, the total number of steps, and the speed in images per second. It returns the seconds until the end of the
    run. By default, only training steps are counted, without evaluations.
    """

    def __init__(
        self,
        log: Path,
        *,
        total: int,
        batch_size: int,
        every: int,
        console: Console | None = None,
        loggers: Sequence[Logger] = (),
        peak: Peak | None = None,
        remaining: Callable[[int, int, float], float] | None = None,
    ):
        self.loggers = loggers
        self.total = total
        self.remaining = remaining or (lambda step, total, speed: (total - step) * batch_size / speed if speed else 0.0)
        self.last_line = plans.now()
        self.line_seconds = LINE_SECONDS[0]
        self.file = log.open("a", encoding="utf-8")
        self.batch_size = batch_size
        self.every = every
        self.peak = peak
        self.flops: float | None = None  # of one step in this process, None until counted
        self.console = console or Console(quiet=True)
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
            refresh_per_second=5,
        )
        self.task = self.bar.add_task("training", total=total, shown="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.file.close()
        for logger in self.loggers:
            logger.close()

    def write(self, kind: str, step: int, **values: object) -> None:
        """Appends an event to the log file. Events of steps and evaluations are also sent to the loggers."""
        self.file.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        self.file.flush()
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if kind in ("step", "evaluation"):
            for logger in self.loggers:
                logger.log(kind, step, numbers)

    def print(self, text: str) -> None:
        """Prints a line to the console and logs it to the logger `vitkit`. Only a terminal wraps long lines."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)
        LOGGER.info(text, extra={"shown": not self.console.quiet})
        self.last_line = plans.now()

    def step(self, step: int, scalars: Mapping[str, float]) -> None:
        """Updates the progress bar after a step. Every `every` steps, the metrics are logged and shown."""
        self.recent.append((time.monotonic(), step))
        if step % self.every != 0 and step != 1:
            if not self.bar.disable:
                self.bar.update(self.task, completed=step, total=self.total)
            return
        speed = self.images_per_second()
        cost = {"images_per_second": round(speed, 1)}
        shown = f"loss {scalars['loss']:.3f}  {speed:,.0f} images/s"
        if used := memory_in_use():
            cost["memory_gb"] = round(used / 1e9, 3)
            shown += f"  {cost['memory_gb']:.1f} GB"
        if self.peak is not None and self.flops and speed:
            cost["mfu"] = round(self.peak.utilization(self.flops, self.batch_size / speed), 4)
            shown += f"  {cost['mfu']:.0%} MFU"
        self.bar.update(self.task, completed=step, total=self.total, shown=shown)
        self.write("step", step, **cost, **scalars)
        self.print_progress(step, scalars, speed)

    def print_progress(self, step: int, scalars: Mapping[str, float], speed: float) -> None:
        """Prints the speed and the remaining time at intervals, if there is no progress bar.

        The first line is printed after five seconds. The interval between two lines doubles until it is one minute.
        """
        if self.console.is_terminal or not speed or plans.now() - self.last_line < self.line_seconds:
            return
        self.line_seconds = min(2 * self.line_seconds, LINE_SECONDS[1])
        left = self.remaining(step, self.total, speed)
        end = f"   {plans.duration(left)} left" if step < self.total else ""
        self.print(f"step {step:>6} of {self.total}   loss {scalars['loss']:.3f}   {speed:,.0f} images/s{end}")

    def images_per_second(self) -> float:
        """Returns the training speed over the last steps in images per second, excluding evaluations."""
        if len(self.recent) < 2:
            return 0.0
        (start, first), (end, last) = self.recent[0], self.recent[-1]
        return (last - first) * self.batch_size / max(end - start, 1e-9)

    def pause(self) -> None:
        """Excludes an interruption, such as an evaluation, from the training speed.

        Call it after the interruption.
        """
        self.recent.clear()


def memory_in_use() -> int:
    """Returns the peak memory of this process in bytes (GPU memory if it uses a GPU), or 0 if unknown."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return memory.peak()


def read(log: Path) -> list[JsonDict]:
    """Reads the events of a log in order, and ignores an incomplete last line from a killed process."""
    if not log.exists():
        return []
    lines = read_text(log).split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def rewind(log: Path, step: int) -> None:
    """Removes the events after `step` from a log, because a run that resumes at `step` logs them again."""
    events = [event for event in read(log) if event["step"] <= step]
    atomic.write_text(log, "".join(json.dumps(event) + "\n" for event in events))


def console() -> Console:
    """Returns a console that writes to standard error, because standard output is for results."""
    return Console(file=sys.stderr)
