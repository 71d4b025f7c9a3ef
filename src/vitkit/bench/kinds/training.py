"""One step of training on a batch that is in memory: forward, backward, clipping, AdamW; the first losses compared."""

import numpy as np

from vitkit.bench import Contender, Job, Options
from vitkit.bench.kinds import inference, job_of

UNIT = "images/s"
SHOWS_SECONDS = False
DEFAULTS = {"models": ("vit-s/16",), "batches": (16,), "precisions": ("bfloat16",)}
NEEDS_WEIGHTS, NEEDS_PHOTOS = True, 0
REFERENCES = inference.REFERENCES
DIFFERENCE = "largest relative difference of the first three losses"
FAR = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 2e-2}

limits = inference.limits


def jobs(options: Options) -> list[Job]:
    """A section for each model and batch."""
    return [job_of(options, model, batch) for model in options.models for batch in options.batches]


def work(job: Job) -> float:
    """Three times the operations of a forward pass: the backward pass has two products for each."""
    return 3.0 * job.shape["flops"]


def judge(outputs: np.ndarray, reference: np.ndarray, contender: Contender) -> tuple[float, bool]:
    """The losses of the first steps must be the reference's: the same model, gradient and update."""
    if outputs.shape != reference.shape or not np.isfinite(outputs).all():
        return float("inf"), False
    difference = float(np.abs(outputs / reference - 1.0).max())
    return difference, difference <= FAR[contender.precision]
