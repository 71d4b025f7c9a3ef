"""What is seen of a run while it goes on: log.jsonl, one JSON object a line, and a progress bar for people."""

import json
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitkit import atomic, memory
from vitkit.train.loggers import Logger
from vitkit.train.utilisation import Peak


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
