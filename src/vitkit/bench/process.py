"""The parent's end of a worker: questions, answers, a limit on patience, and why it died."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

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
