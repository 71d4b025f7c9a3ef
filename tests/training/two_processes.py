"""Run several jobs in two processes that are started once, because starting Python takes longer than a small run.

Tests call `run_in_two(jobs, folder)`. As a script (JOBS.json) this file imports vitkit and forks the two processes. A
job is a run, a folder and optionally a fault in the second process: SIGTERM after a step, or an image of NaN. Each
process writes how a job ended, when, and the keys of its images to `ended-RANK.json` in the folder of the job.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from vitkit.training import Run
from vitkit.training.run import from_json, to_json


@dataclass(frozen=True)
class Job:
    """A run, and a `fault` (term, nan) at a step of the second process, if any."""

    run: Run
    folder: Path
    fault: str = ""
    step: int = 0


@dataclass(frozen=True)
class End:
    """How a process of a job ended: `error` is the name and the message of its exception, `signalled` a time."""

    error: str
    time: float
    signalled: float
    keys: list[list[str]]


def run_in_two(jobs: Iterable[Job], scratch: Path, timeout: float = 900.0) -> None:
    """Runs the jobs one after the other in two processes."""
    jobs = list(jobs)
    scratch.mkdir(parents=True, exist_ok=True)
    rows = [asdict(job) | {"run": to_json(job.run), "folder": str(job.folder)} for job in jobs]
    sockets = [socket.socket() for _ in jobs]
    for each, row in zip(sockets, rows, strict=True):
        each.bind(("127.0.0.1", 0))
        row["port"] = each.getsockname()[1]
        each.close()
    (scratch / "jobs.json").write_text(json.dumps(rows))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with (scratch / "errors").open("wb") as log:
        command = [sys.executable, __file__, str(scratch / "jobs.json")]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        code = process.wait(timeout)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert code == 0, (scratch / "errors").read_text()[-6000:]


def ends(folder: Path) -> tuple[End, End]:
    """Returns how the last job in a folder ended in each process."""
    first, second = (End(**json.loads((folder / f"ended-{rank}.json").read_text())) for rank in (0, 1))
    return first, second


def main(path: str) -> int:
    """Runs the jobs in two forked processes; returns the number of processes that failed."""
    # Imported here once, because each process would import them otherwise.
    importlib.import_module("torch._dynamo")
    importlib.import_module("vitkit.training.launch")
    children = []
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            try:
                work(path, rank)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def work(path: str, rank: int) -> None:
    """Runs one process's part of all jobs."""
    import torch

    from vitkit.data.sources.digits import Digits

    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    Digits.__len__ = lambda self: 240  # as in conftest.py
    for row in json.loads(Path(path).read_text()):
        os.environ["MASTER_PORT"] = str(row["port"])
        run, folder = from_json(row["run"]), Path(row["folder"])
        end = run_job(run, folder, row["fault"] if os.environ["RANK"] == "1" else "", row["step"])
        folder.mkdir(exist_ok=True)
        (folder / f"ended-{os.environ['RANK']}.json").write_text(json.dumps(asdict(end)))


def run_job(run: Run, folder: Path, fault: str, step: int) -> End:
    """Runs one job in this process."""
    from vitkit.training import Interrupted, TrainingStopped, session, train
    from vitkit.training.checkpointing.saving import CheckpointNotSaved

    signalled, error, keys = 0.0, "", []
    original_batches, original_step = session.training_batches, session.Events.step

    def record_keys(*arguments: Any, consumed: int) -> Any:
        for batch in original_batches(*arguments, consumed=consumed):
            keys.append(list(batch.keys))
            if fault == "nan" and len(keys) == step + 1:
                batch.images[0] = float("nan")
            yield batch

    def send_signal(self: Any, number: int, *rest: Any) -> None:
        nonlocal signalled
        original_step(self, number, *rest)
        if fault == "term" and number == step:
            signalled = time.time()
            os.kill(os.getpid(), signal.SIGTERM)

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(session, "training_batches", record_keys)
        patch.setattr(session.Events, "step", send_signal)
        try:
            train(run, folder)
        except (Interrupted, TrainingStopped, CheckpointNotSaved, ValueError, OSError) as raised:
            error = f"{type(raised).__name__}: {raised}"
    return End(error, time.time(), signalled, keys)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
