"""Benchmark of classifying JPEG files with the default settings documented by each library."""

from collections.abc import Sequence

import numpy as np

from vitkit.bench import Candidate, Job, Options
from vitkit.bench.kinds import make_job

UNIT = "images/s"
SHOWS_SECONDS = False
# Without a precision: the default of each library.
DEFAULTS = {"precisions": ()}
NEEDS_WEIGHTS, NUM_IMAGES = True, 32
REFERENCES = (("transformers", ""), ("timm", ""), ("vitkit", "float32"))
DIFFERENCE = "fraction of images with another predicted class"
MAX_DIFFERENCE = 0.1


def jobs(options: Options) -> list[Job]:
    """Returns one job per model."""
    return [make_job(options, model, 1) for model in options.models]


def limits(job: Job, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns an empty list. The benchmarks `data` and `inference` measure the limits of decoding and of the model."""
    return []


def check_outputs(outputs: np.ndarray, reference: np.ndarray, candidate: Candidate) -> tuple[float, bool]:
    """Compares predicted classes with the reference. A few classes may differ due to rounding in the processors."""
    difference = float((outputs != reference).mean()) if outputs.shape == reference.shape else 1.0
    return difference, difference <= MAX_DIFFERENCE
