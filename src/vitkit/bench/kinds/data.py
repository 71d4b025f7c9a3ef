"""JPEG files to the numbers that a model takes, on one core: decoded, squashed bilinearly to a size, normalised."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vitkit.bench import Contender, Job, Options, Prepared
from vitkit.bench.kinds import job_of

UNIT = "images/s"
SHOWS_SECONDS = False
# The precision of a contender is here the form of its processor, where it has several.
DEFAULTS = {"precisions": ("all",), "models": ("",), "batches": (1,)}
NEEDS_WEIGHTS, NEEDS_PHOTOS = False, 64
REFERENCES = (("vitkit", ""),)
DIFFERENCE = "largest difference of a pixel, in 8-bit levels"
LEVELS = 127.5  # numbers are from -1 to 1
# Filters that round differently are a level or two apart here and there; another filter or size is many everywhere.
FAR_ON_AVERAGE = 1.0


def jobs(options: Options) -> list[Job]:
    """One section, on one thread: rates are those of a core."""
    return [replace(job_of(options, "", 1), threads=1)]


def limits(job: Job, contenders: Sequence[Contender]) -> list[Contender]:
    """Decoding alone."""
    return [Contender(peer="limit", precision="decoding", module="vitkit.bench.roofline")]


def work(job: Job) -> float:
    """One image is one decoding."""
    return 1.0


def judge(outputs: np.ndarray, reference: np.ndarray, contender: Contender) -> tuple[float, bool]:
    """Against vitkit's own processor, which is Pillow's arithmetic bit for bit."""
    if outputs.shape != reference.shape:
        return float("inf"), False
    difference = np.abs(outputs - reference) * LEVELS
    return float(difference.max()), float(difference.mean()) <= FAR_ON_AVERAGE


def each_file(job: Job, read: Callable[[str], np.ndarray], how: str) -> Prepared:
    """A contender that reads one file after the other."""

    def run() -> None:
        for name in job.photos:
            read(name)

    outputs = np.stack([read(name) for name in job.photos])
    return Prepared(run=run, items=len(job.photos), outputs=outputs, notes={"how": how})
