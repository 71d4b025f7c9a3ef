"""A peer for the tests of workers, controlled by the settings of the candidate."""

import os
import signal
import time

import numpy as np

from vitkit.bench import Candidate, Job, Prepared


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Sleeps for `sleep` seconds per call, or fails as the setting `failure` says."""
    print("output of a library")
    failure = candidate.setting("failure")
    if failure == "fail":
        raise ValueError("no such thing\nand a second line")
    if failure == "hang":
        time.sleep(600)
    calls = []

    def run() -> None:
        calls.append(1)
        if failure == "kill" and len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if failure == "exit" and len(calls) > 1:
            os._exit(3)
        if failure == "memory" and len(calls) > 1:
            raise MemoryError
        time.sleep(float(candidate.setting("sleep", "0.01")))

    return Prepared(run=run, items=job.batch, outputs=np.full((2, 3), 1.5), notes={"failure": failure})
