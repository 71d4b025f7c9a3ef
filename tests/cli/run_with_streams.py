"""Run commands with closed, full or disconnected streams: reads cases as JSON lines, prints results as JSON lines.

A case has `arguments` and the streams that are not ordinary: {"stdout": "closed"}. Each command runs in a fork, so that
torch is imported once, and starts as the process of a command does. A result has the exit code, the signal, and what
was written to the streams; exit code 120 is that of an interpreter whose last flush fails.
"""

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vitkit import cli, inference, recipes  # noqa: F401
from vitkit.evaluation import flops, protocol  # noqa: F401 - imported before the forks, which share it

NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def connect(streams: dict[str, str], folder: Path) -> None:
    """Replaces the standard streams of this process."""
    for name, number in NUMBERS.items():
        kind, mode = streams.get(name, "file"), "r" if number == 0 else "w"
        if kind == "closed":
            os.close(number)
            setattr(sys, name, None)
            continue
        if kind == "pipe":  # whose reader is gone
            reader, writer = os.pipe()
            os.close(reader)
        else:
            path = {"full": "/dev/full", "file": folder / name}.get(kind, kind)
            writer = os.open(path, os.O_RDONLY if mode == "r" else os.O_WRONLY | os.O_CREAT)
        os.dup2(writer, number)
        setattr(sys, name, os.fdopen(number, mode, closefd=False))


def run(case: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stdin").touch()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                connect(case["streams"], folder)
                if "file_size" in case:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (case["file_size"], case["file_size"]))
                sys.argv = ["vitkit", *case["arguments"]]
                code = cli.main()
            except SystemExit as error:
                code = error.code
            except BaseException:
                import traceback

                (folder / "traceback").write_text(traceback.format_exc())
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            except OSError:
                code = 120
            os._exit(code if isinstance(code, int) else 0)
        _, status = os.waitpid(child, 0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            **{each.name: each.read_text(errors="replace") for each in folder.iterdir()},
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        inference.load("m").save(scratch, to="timm")  # imports what the commands need
    for line in sys.stdin.read().splitlines():
        print(json.dumps(run(json.loads(line))), flush=True)
