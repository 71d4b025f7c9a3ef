"""A B A B: contenders in processes of their own, one round each in turn, until all rounds are run."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitkit.bench import Contender, Job, Plan


class Asked(Protocol):
    """What the race wants of a worker."""

    def ask(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        """The answer to a request, or `Failed`."""
        ...

    def send(self, request: dict[str, Any]) -> None:
        """Sends a request without waiting for its answer; raises `Failed` if the process has ended."""
        ...

    def answer(self, patience: float) -> dict[str, Any]:
        """The answer to the request that was sent, or `Failed`."""
        ...

    def stop(self) -> None:
        """Ends it."""
        ...


@dataclass(kw_only=True)
class Lap:
    """What became of one contender: its rates in items a second, one a round that counts, or why there are none."""

    contender: Contender
    rates: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    seconds_to_prepare: float = 0.0
    cpu_share: list[float] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    outputs: np.ndarray | None = None
    failure: str = ""


@dataclass(kw_only=True)
class Laps:
    """The laps of all contenders, in their order, and whether somebody ended the race early."""

    laps: list[Lap]
    interrupted: bool = False


def race(
    job: Job,
    contenders: Sequence[Contender],
    plan: Plan,
    start: Callable[[Contender], Asked],
    say: Callable[[str], None] = lambda text: None,
) -> Laps:
    """Prepares every contender, `plan.preparing` at the same time, then lets them run their rounds in turn.

    One that fails stays out of the rest and the others go on; an interrupt ends the race with the rounds it has.
    """
    found = Laps(laps=[Lap(contender=contender) for contender in contenders])
    workers: dict[int, Asked] = {}
    try:
        numbered = list(enumerate(found.laps))
        for first in range(0, len(numbered), plan.preparing):
            group = numbered[first : first + plan.preparing]
            say(f"preparing {', '.join(lap.contender.name for _, lap in group)}")
            _prepare(job, group, plan, lambda number, lap: workers.setdefault(number, start(lap.contender)))
        for count in range(plan.warm_up + plan.rounds):
            counts = count >= plan.warm_up
            for number, lap in enumerate(found.laps):
                if not lap.failure:
                    what = f"round {count - plan.warm_up + 1}/{plan.rounds}" if counts else "warm-up"
                    say(f"{what}: {lap.contender.name}")
                    time.sleep(plan.pause)
                    _round(lap, workers[number], plan, counts)
    except KeyboardInterrupt:
        found.interrupted = True
        for lap in found.laps:
            if not lap.rates and not lap.failure:
                lap.failure = "interrupted before its first round"
    finally:
        for worker in workers.values():
            worker.stop()
    return found


def _prepare(job: Job, group: Sequence[tuple[int, Lap]], plan: Plan, start: Callable[[int, Lap], Asked]) -> None:
    """Starts the workers of a group and waits until all are prepared."""
    with tempfile.TemporaryDirectory(prefix="vitkit-bench-") as folder:
        sent: list[tuple[Lap, Asked, Path]] = []
        for number, lap in group:
            outputs = Path(folder) / f"{number}.npy"
            contender = lap.contender.to_dict()
            request = {"do": "prepare", "job": job.to_dict(), "contender": contender, "outputs": str(outputs)}
            worker = start(number, lap)
            try:
                worker.send(request)
            except Failed as failure:
                lap.failure = str(failure)
            else:
                sent.append((lap, worker, outputs))
        for lap, worker, outputs in sent:
            try:
                answer = worker.answer(plan.patience)
            except Failed as failure:
                lap.failure = str(failure)
                continue
            lap.notes, lap.seconds_to_prepare = answer["notes"], answer["seconds"]
            if outputs.exists():
                lap.outputs = np.load(outputs, allow_pickle=False)


def _round(lap: Lap, worker: Asked, plan: Plan, counts: bool) -> None:
    try:
        answer = worker.ask({"do": "round", "seconds": plan.seconds}, plan.patience + plan.seconds)
    except Failed as failure:
        # What it did before stands in the record, but a library that falls over is not measured by its good rounds.
        lap.failure = f"in round {len(lap.rates) + 1}: {failure}"
        worker.stop()
        return
    if counts:
        lap.rates.append(answer["items"] / answer["seconds"])
        lap.cpu_share.append(answer["cpu_seconds"] / answer["seconds"])
    lap.peak_bytes = max(lap.peak_bytes, answer["peak_bytes"])


WORKER = (sys.executable, "-P", "-m", "vitkit.bench.worker")


class Failed(Exception):  # noqa: N818 - an outcome, as a row of the table says it
    """A contender that did not do what it was asked; the text is the reason."""


def environment(threads: int, device: str) -> dict[str, str]:
    """The variables that hold every library to the same number of threads, and off the network."""
    own = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": 1,
        "HF_HUB_DISABLE_PROGRESS_BARS": 1,
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": 1,
    }
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, **{name: str(value) for name, value in own.items()}, **hidden}


class Worker:
    """A running worker; `ask` sends one request and waits for its answer."""

    def __init__(self, variables: Mapping[str, str], command: tuple[str, ...] = WORKER):
        # A file, not a pipe: a library that says much would fill a pipe and wait for ever.
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, env=dict(variables)
        )
        self.rest = b""
        self.sent = time.monotonic()

    def ask(self, request: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """The answer; raises Failed where it is an error, does not come in `patience` seconds, or never will."""
        self.send(request)
        return self.answer(patience)

    def send(self, request: Mapping[str, Any]) -> None:
        """Sends a request without waiting for its answer; raises Failed if the process has ended."""
        assert self.process.stdin is not None
        self.sent = time.monotonic()
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._why()) from None

    def answer(self, patience: float) -> dict[str, Any]:
        """The answer to the request that was sent; raises Failed as `ask` does, and counts `patience` from `send`."""
        answer = json.loads(self._line(patience))
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()

    def _line(self, patience: float) -> bytes:
        assert self.process.stdout is not None
        end = self.sent + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.process.kill()
                    raise Failed(f"no answer in {patience:.0f} s")
                read = os.read(self.process.stdout.fileno(), 65536)
                if not read:
                    raise Failed(self._why())
                self.rest += read
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _why(self) -> str:
        """Why the process has gone: the signal that ended it, or the last line that it said."""
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"ended by {name}" + (", most likely out of memory" if name == "SIGKILL" else "")
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f": {lines[-1][:300]}" if lines else "")
