"""Runs candidates in separate processes, in interleaved rounds (A B A B)."""

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
from typing import Protocol

import numpy as np

from vitkit.bench import Candidate, Job, Plan
from vitkit.config import Json, JsonDict


class BaseWorker(Protocol):
    """Protocol of worker processes, each of which runs one candidate."""

    def request(self, message: JsonDict, timeout: float) -> JsonDict:
        """Sends a request and returns the response. Raises `Failed` if the worker does not respond."""
        ...

    def send(self, message: JsonDict) -> None:
        """Sends a request without waiting for the response. Raises `Failed` if the process has ended."""
        ...

    def response(self, timeout: float) -> JsonDict:
        """Returns the response to the last request. Raises `Failed` if the worker does not respond."""
        ...

    def stop(self) -> None:
        """Stops the worker process."""
        ...


@dataclass(kw_only=True)
class Result:
    """The result of a candidate: a rate (items per second) for each measured round, or the reason why it failed."""

    candidate: Candidate
    rates: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    seconds_to_prepare: float = 0.0
    cpu_utilization: list[float] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    outputs: np.ndarray | None = None
    failure: str = ""


@dataclass(kw_only=True)
class Results:
    """The results of all candidates, in order, and whether the benchmark was interrupted."""

    results: list[Result]
    interrupted: bool = False


def run_rounds(
    job: Job,
    candidates: Sequence[Candidate],
    plan: Plan,
    start: Callable[[Candidate], BaseWorker],
    log: Callable[[str], None] = lambda text: None,
) -> Results:
    """Measures the candidates in interleaved rounds. Up to `plan.preparing` candidates are prepared at the same time.

    A candidate that fails is skipped in later rounds. After an interrupt the measured rounds are returned.
    """
    collected = Results(results=[Result(candidate=candidate) for candidate in candidates])
    workers: dict[int, BaseWorker] = {}
    try:
        numbered = list(enumerate(collected.results))
        for first in range(0, len(numbered), plan.preparing):
            group = numbered[first : first + plan.preparing]
            log(f"preparing {', '.join(result.candidate.name for _, result in group)}")
            _prepare(job, group, plan, lambda number, result: workers.setdefault(number, start(result.candidate)))
        for count in range(plan.warm_up + plan.rounds):
            is_measured = count >= plan.warm_up
            for number, result in enumerate(collected.results):
                if not result.failure:
                    phase = f"round {count - plan.warm_up + 1}/{plan.rounds}" if is_measured else "warm-up"
                    log(f"{phase}: {result.candidate.name}")
                    time.sleep(plan.pause)
                    _round(result, workers[number], plan, is_measured)
    except KeyboardInterrupt:
        collected.interrupted = True
        for result in collected.results:
            if not result.rates and not result.failure:
                result.failure = "interrupted before its first round"
    finally:
        for worker in workers.values():
            worker.stop()
    return collected


def _prepare(
    job: Job, group: Sequence[tuple[int, Result]], plan: Plan, start: Callable[[int, Result], BaseWorker]
) -> None:
    """Starts a worker for each candidate of a group, and waits until all candidates are prepared."""
    with tempfile.TemporaryDirectory(prefix="vitkit-bench-") as folder:
        sent: list[tuple[Result, BaseWorker, Path]] = []
        for number, result in group:
            outputs = Path(folder) / f"{number}.npy"
            candidate = result.candidate.to_dict()
            message = {"do": "prepare", "job": job.to_dict(), "candidate": candidate, "outputs": str(outputs)}
            worker = start(number, result)
            try:
                worker.send(message)
            except Failed as failure:
                result.failure = str(failure)
            else:
                sent.append((result, worker, outputs))
        for result, worker, outputs in sent:
            try:
                response = worker.response(plan.timeout)
            except Failed as failure:
                result.failure = str(failure)
                continue
            result.notes, result.seconds_to_prepare = response["notes"], response["seconds"]
            if outputs.exists():
                result.outputs = np.load(outputs, allow_pickle=False)


def _round(result: Result, worker: BaseWorker, plan: Plan, is_measured: bool) -> None:
    try:
        response = worker.request({"do": "round", "seconds": plan.seconds}, plan.timeout + plan.seconds)
    except Failed as failure:
        # Its earlier rates stay in the report, but a candidate that failed gets no ratio.
        result.failure = f"in round {len(result.rates) + 1}: {failure}"
        worker.stop()
        return
    if is_measured:
        result.rates.append(response["items"] / response["seconds"])
        result.cpu_utilization.append(response["cpu_seconds"] / response["seconds"])
    result.peak_bytes = max(result.peak_bytes, response["peak_bytes"])


WORKER = (sys.executable, "-P", "-m", "vitkit.bench.worker")


class Failed(Exception):  # noqa: N818 - a status in the table
    """Raised when a candidate fails. The message states the reason."""


def environment(threads: int, device: str) -> dict[str, str]:
    """Returns the environment of a worker process. Its variables set the number of threads and disable downloads."""
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
    """A worker process that runs one candidate, and responds to messages on standard input."""

    def __init__(self, variables: Mapping[str, str], command: tuple[str, ...] = WORKER):
        # A file, not a pipe: much output would fill a pipe and block the process.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=dict(variables)
        )
        self.buffer = b""
        self.sent = time.monotonic()

    def request(self, message: Json, timeout: float) -> JsonDict:
        """Sends a message and returns the response. Raises Failed for an error, a timeout or an ended process."""
        self.send(message)
        return self.response(timeout)

    def send(self, message: Json) -> None:
        """Sends a message without waiting for the response. Raises Failed if the process has ended."""
        assert self.process.stdin is not None
        self.sent = time.monotonic()
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._exit_reason()) from None

    def response(self, timeout: float) -> JsonDict:
        """Returns the response to the last message. The timeout is measured from the last `send`."""
        response = json.loads(self._line(timeout))
        if "error" in response:
            raise Failed(response["error"])
        return response

    def stop(self) -> None:
        """Stops the worker process."""
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
        self.errors.close()

    def _line(self, timeout: float) -> bytes:
        assert self.process.stdout is not None
        end = self.sent + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.process.kill()
                    raise Failed(f"the process did not respond within {timeout:.0f} s")
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise Failed(self._exit_reason())
                self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _exit_reason(self) -> str:
        """Returns the reason why the worker process ended: a signal, or the last line of its error output."""
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            return f"ended by {name}" + (", most likely out of memory" if name == "SIGKILL" else "")
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f": {lines[-1][:300]}" if lines else "")
