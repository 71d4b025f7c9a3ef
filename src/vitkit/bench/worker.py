"""Worker process of one candidate, which reads requests and writes responses as JSON lines.

`prepare` imports the library and prepares the candidate, `round` runs it for some seconds. `make` writes files for a
later `prepare` (an exported graph) in a separate process, so that its memory is not counted. Prints of libraries go to
standard error. After an error the response has the message, and the process ends.
"""

import json
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from vitkit import memory
from vitkit.bench import Candidate, Job, Prepared
from vitkit.config import JsonDict


def main() -> None:
    """Executes the requests that arrive on standard input and writes responses, until standard input is closed."""
    # The parent handles the interrupt, which the terminal sends to all processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    responses = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    prepared: Prepared | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "round":
                response = run_round(prepared, request["seconds"])
            else:
                prepared, response = prepare(request)
        except BaseException as error:
            traceback.print_exc()
            responses.write(json.dumps({"error": one_line(error)}) + "\n")
            return
        responses.write(json.dumps(response) + "\n")


def prepare(request: JsonDict) -> tuple[Prepared | None, JsonDict]:
    """Executes a `make` or `prepare` request. Writes the candidate's outputs to the file named in the request."""
    job, candidate = Job.from_dict(request["job"]), Candidate.from_dict(request["candidate"])
    module = import_module(candidate.module)
    if request["do"] == "make":
        if hasattr(module, "make"):
            module.make(job, candidate)
        return None, {"made": True}
    begin = time.perf_counter()
    prepared: Prepared = getattr(module, job.kind)(job, candidate)
    seconds = time.perf_counter() - begin
    if prepared.outputs is not None:
        import numpy as np

        np.save(request["outputs"], np.asarray(prepared.outputs, np.float32), allow_pickle=False)
    reset_peak_memory()
    return prepared, {"notes": prepared.notes, "seconds": seconds}


def run_round(prepared: Prepared | None, seconds: float) -> JsonDict:
    """Runs one round, in which the candidate is called repeatedly until `seconds` have passed."""
    if prepared is None:
        raise ValueError("the candidate is not prepared; send a `prepare` request first")
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


def reset_peak_memory() -> None:
    """Resets the peak memory of the process, so that memory used for preparation does not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: the peak then includes the preparation


def peak_memory() -> int:
    """Returns the peak memory in bytes since `reset_peak_memory`, on the GPU if one is used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return memory.peak()


def one_line(error: BaseException) -> str:
    """Returns the type and the first line of the message of an exception."""
    text = str(error).strip().splitlines()
    first = text[0][:300] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


if __name__ == "__main__":
    main()
