"""Where scalars of a run are told beside the log: TensorBoard always, Weights & Biases and MLflow on request."""

import importlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitkit import atomic, memory
from vitkit.train import run as runs
from vitkit.train.run import Run
from vitkit.train.utilization import Peak


class Logger(Protocol):
    """Takes the scalars of a step."""

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """`kind` is step or evaluation."""

    def close(self) -> None:
        """Nothing comes after."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run; a run that goes on hides what was told after its `step`."""

    def __init__(self, folder: Path, step: int = 0):
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import, and not needed for --help

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds each under its kind."""
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Writes what is held back."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the same name, found again by its folder when it goes on."""

    def __init__(self, run: Run, folder: Path):
        module = _imported("wandb", "wandb")
        name = folder.resolve().name
        self.run = module.init(
            project="vitkit", name=name, id=name, resume="allow", dir=str(folder), config=runs.to_dict(run)
        )

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds each under its kind."""
        self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self.run.finish()


class MLflow:
    """A run of the same name at the tracking address that MLflow is set to."""

    def __init__(self, run: Run, folder: Path):
        self.module = _imported("mlflow", "mlflow")
        self.module.set_experiment("vitkit")
        self.module.start_run(run_name=folder.resolve().name)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Adds each under its kind."""
        self.module.log_metrics({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self.module.end_run()


KINDS: dict[str, Callable[[Run, Path], Logger]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def check_loggers(run: Run) -> None:
    """Raises ValueError for an unknown logger, and ImportError with the line to type for one that is not installed."""
    unknown = [name for name in run.machine.loggers if name not in KINDS]
    if unknown:
        known = f"there is {', '.join(KINDS)}, and TensorBoard's files are always written"
        raise ValueError(f"unknown logger '{unknown[0]}'; {known}")
    for name in run.machine.loggers:
        _imported(name, name)


def open_loggers(run: Run, folder: Path, step: int = 0) -> tuple[Logger, ...]:
    """TensorBoard, and the loggers that `machine.loggers` names, for a run that has taken `step` steps; it has passed
    `refuse`.
    """
    asked = tuple(KINDS[name](run, folder) for name in run.machine.loggers)
    return (TensorBoard(folder, step), *asked)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"machine.loggers names {package}, which is not installed: pip install {package}") from error


class Events:
    """Writes what happens; a context, so that the bar ends with it. `console` is where people look, None for nowhere.

    Where the console is no terminal the bar is left out, and one line an evaluation remains. With `peak`, what this
    process's device can do, the share of it that is done (`mfu`) is shown and logged.
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
    ):
        self.loggers = loggers
        self.file = log.open("a", encoding="utf-8")
        self.batch_size = batch_size
        self.every = every
        self.peak = peak
        self.flops: float | None = None  # of one step in this process, once they are counted
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

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Adds one line to the log, at once."""
        self.file.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        self.file.flush()
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if kind in ("step", "evaluation"):
            for logger in self.loggers:
                logger.scalars(kind, step, numbers)

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, highlight=False)

    def step(self, step: int, scalars: Mapping[str, float]) -> None:
        """After each step; every few of them are logged and shown, and only then are their scalars read."""
        self.recent.append((time.monotonic(), step))
        if step % self.every != 0 and step != 1:
            if not self.bar.disable:
                self.bar.update(self.task, completed=step)
            return
        speed = self.images_per_second()
        cost = {"images_per_second": round(speed, 1)}
        shown = f"loss {scalars['loss']:.3f}  {speed:,.0f} images/s"
        if used := memory_in_use():
            cost["memory_gb"] = round(used / 1e9, 3)
            shown += f"  {cost['memory_gb']:.1f} GB"
        if self.peak is not None and self.flops and speed:
            cost["mfu"] = round(self.peak.share(self.flops, self.batch_size / speed), 4)
            shown += f"  {cost['mfu']:.0%} MFU"
        self.bar.update(self.task, completed=step, shown=shown)
        self.write("step", step, **cost, **scalars)

    def images_per_second(self) -> float:
        """Over the last steps, evaluations between them left out."""
        if len(self.recent) < 2:
            return 0.0
        (start, first), (end, last) = self.recent[0], self.recent[-1]
        return (last - first) * self.batch_size / max(end - start, 1e-9)

    def pause(self) -> None:
        """Forgets the speed so far: what follows is no training."""
        self.recent.clear()


def memory_in_use() -> int:
    """The most bytes that this process has used so far: of the GPU where it uses one, else of memory; 0 if unknown."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return memory.peak()


def read(log: Path) -> list[dict[str, Any]]:
    """The events of a log in order; a last line cut short by a kill is left out."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def rewind(log: Path, step: int) -> None:
    """Drops what was logged after a step that the run now goes on from, so that nothing is told twice."""
    kept = [event for event in read(log) if event["step"] <= step]
    atomic.write_text(log, "".join(json.dumps(event) + "\n" for event in kept))


def console() -> Console:
    """Where people look at training: standard error, so that standard output stays for results."""
    return Console(file=sys.stderr)
