"""JPEG files to classes, with the default settings that the documentation of each library shows."""

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
    """Returns a section per model."""
    return [make_job(options, model, 1) for model in options.models]


def limits(job: Job, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns no limits: `data` and `inference` measure those of decoding and the model."""
    return []


def check_outputs(outputs: np.ndarray, reference: np.ndarray, candidate: Candidate) -> tuple[float, bool]:
    """Compares predicted classes; processors round differently, which changes a few of them."""
    difference = float((outputs != reference).mean()) if outputs.shape == reference.shape else 1.0
    return difference, difference <= MAX_DIFFERENCE
