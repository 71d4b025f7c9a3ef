"""From JPEG files to classes, out of the box: every library's own defaults, as its documentation shows it."""

from collections.abc import Sequence

import numpy as np

from vitkit.bench import Contender, Job, Options
from vitkit.bench.kinds import job_of

UNIT = "images/s"
SHOWS_SECONDS = False
# Without a precision: what each library does where nobody says more.
DEFAULTS = {"precisions": ()}
NEEDS_WEIGHTS, NEEDS_PHOTOS = True, 32
REFERENCES = (("transformers", ""), ("timm", ""), ("vitkit", "float32"))
DIFFERENCE = "share of photos with another likeliest class"
FAR = 0.1


def jobs(options: Options) -> list[Job]:
    """A section for each model."""
    return [job_of(options, model, 1) for model in options.models]


def limits(job: Job, contenders: Sequence[Contender]) -> list[Contender]:
    """None: what bounds it is decoding and the network, which `data` and `inference` measure."""
    return []


def judge(outputs: np.ndarray, reference: np.ndarray, contender: Contender) -> tuple[float, bool]:
    """Processors round differently, so a photo on the edge between classes may fall to either side, but few do."""
    difference = float((outputs != reference).mean()) if outputs.shape == reference.shape else 1.0
    return difference, difference <= FAR
