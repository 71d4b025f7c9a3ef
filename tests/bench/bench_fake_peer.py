"""A peer for the tests of workers: what it does is in the contender's settings."""

import os
import signal
import time

import numpy as np

from vitkit.bench import Contender, Job, Prepared


def inference(job: Job, contender: Contender) -> Prepared:
    """Sleeps for `sleep` seconds a call, or does the mischief that `does` names."""
    print("a library that chats on standard output")
    does = contender.setting("does")
    if does == "fail":
        raise ValueError("no such thing\nand a second line")
    if does == "hang":
        time.sleep(600)
    calls = []

    def run() -> None:
        calls.append(1)
        if does == "die" and len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if does == "leave" and len(calls) > 1:
            os._exit(3)
        if does == "exhaust" and len(calls) > 1:
            raise MemoryError
        time.sleep(float(contender.setting("sleep", "0.01")))

    return Prepared(run=run, items=job.batch, outputs=np.full((2, 3), 1.5), notes={"does": does})
