"""The process of one contender: JSON lines in on standard input, JSON lines out on what was standard output.

`prepare` imports the library and makes ready, `round` runs for so many seconds, `make` only writes files that
`prepare` of a later process reads (an exported graph), so that making them is not in its memory. Whatever a library
prints goes to standard error. An error is an answer, and the process then ends.
"""

import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from vitkit import memory
from vitkit.bench import Contender, Job, Prepared


def main() -> None:
    """Answers until there are no more questions."""
    # The parent decides what an interrupt means; the terminal sends it to all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    prepared: Prepared | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "round":
                answer = measured(prepared, request["seconds"])
            else:
                prepared, answer = made_ready(request)
        except BaseException as error:
            traceback.print_exc()
            answers.write(json.dumps({"error": sentence(error)}) + "\n")
            return
        answers.write(json.dumps(answer) + "\n")


def made_ready(request: dict[str, Any]) -> tuple[Prepared | None, dict[str, Any]]:
    """Does what `make` or `prepare` asks; writes the contender's answers to the file it is told."""
    job, contender = Job.from_dict(request["job"]), Contender.from_dict(request["contender"])
    module = import_module(contender.module)
    if request["do"] == "make":
        if hasattr(module, "make"):
            module.make(job, contender)
        return None, {"made": True}
    begin = time.perf_counter()
    prepared: Prepared = getattr(module, job.kind)(job, contender)
    seconds = time.perf_counter() - begin
    if prepared.outputs is not None:
        import numpy as np

        np.save(request["outputs"], np.asarray(prepared.outputs, np.float32), allow_pickle=False)
    forget_peak()
    return prepared, {"notes": prepared.notes, "seconds": seconds}


def measured(prepared: Prepared | None, seconds: float) -> dict[str, Any]:
    """One round: calls, one after the other, until `seconds` have passed."""
    if prepared is None:
        raise ValueError("a round was asked for before the contender was prepared")
    calls, begin, busy = 0, time.perf_counter(), time.process_time()
    while True:
        prepared.run()
        calls += 1
        passed = time.perf_counter() - begin
        if passed >= seconds:
            break
    return {
        "seconds": passed,
        "calls": calls,
        "items": calls * prepared.items,
        "cpu_seconds": time.process_time() - busy,
        "peak_bytes": prepared.peak() if prepared.peak else peak_memory(),
    }


def forget_peak() -> None:
    """Starts the kernel's record of the most memory anew: what counts is the running, not the preparing."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # another system than Linux: the peak is then that of the whole life


def peak_memory() -> int:
    """The most memory in bytes that this process has held since `forget_peak`; with a GPU in use, the GPU's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return memory.peak()


def sentence(error: BaseException) -> str:
    """One line of an exception: its type, and the first line of what it says."""
    text = str(error).strip().splitlines()
    first = text[0][:300] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


if __name__ == "__main__":
    main()
