"""Benchmark of decoding, resizing and normalizing JPEG files on one CPU core."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vitkit.bench import Candidate, Job, Options, Prepared
from vitkit.bench.kinds import make_job

UNIT = "images/s"
SHOWS_SECONDS = False
# The precision of a candidate is the variant of its processor, if there are several.
DEFAULTS = {"precisions": ("all",), "models": ("",), "batches": (1,)}
NEEDS_WEIGHTS, NUM_IMAGES = False, 64
REFERENCES = (("vitkit", ""),)
DIFFERENCE = "largest difference of a pixel, in 8-bit values"
SCALE = 127.5  # normalized values are from -1 to 1
# Different rounding changes some pixels by one or two values; another filter or size changes most pixels by more.
MAX_MEAN_DIFFERENCE = 1.0


def jobs(options: Options) -> list[Job]:
    """Returns a single job with one thread, so that rates are images per second per core."""
    return [replace(make_job(options, "", 1), threads=1)]


def limits(job: Job, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidate that measures the speed limit, which is JPEG decoding without resizing."""
    return [Candidate(peer="limit", precision="decoding", module="vitkit.bench.roofline")]


def work(job: Job) -> float:
    """Returns the work per item, in decoded images, which is the unit of the speed limit."""
    return 1.0


def check_outputs(outputs: np.ndarray, reference: np.ndarray, candidate: Candidate) -> tuple[float, bool]:
    """Compares pixels with those of vitkit's processor, which matches Pillow bit for bit."""
    if outputs.shape != reference.shape:
        return float("inf"), False
    difference = np.abs(outputs - reference) * SCALE
    return float(difference.max()), float(difference.mean()) <= MAX_MEAN_DIFFERENCE


def prepare_reading(job: Job, read: Callable[[str], np.ndarray], how: str) -> Prepared:
    """Returns a prepared candidate that processes the JPEG files of a job one at a time."""

    def run() -> None:
        for name in job.images:
            read(name)

    outputs = np.stack([read(name) for name in job.images])
    return Prepared(run=run, items=len(job.images), outputs=outputs, notes={"method": how})
