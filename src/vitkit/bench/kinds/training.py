"""Benchmark of training steps on a batch in memory: forward and backward pass, gradient clipping and AdamW."""

import numpy as np

from vitkit.bench import Candidate, Job, Options
from vitkit.bench.kinds import inference, make_job

UNIT = "images/s"
SHOWS_SECONDS = False
DEFAULTS = {"models": ("vit-s/16",), "batches": (16,), "precisions": ("bfloat16",)}
NEEDS_WEIGHTS, NUM_IMAGES = True, 0
REFERENCES = inference.REFERENCES
DIFFERENCE = "largest relative difference of the first three losses"
MAX_DIFFERENCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 2e-2}

limits = inference.limits


def jobs(options: Options) -> list[Job]:
    """Returns one job per model and batch size."""
    return [make_job(options, model, batch) for model in options.models for batch in options.batches]


def work(job: Job) -> float:
    """Returns the work per image: FLOPs of a training step, which are three times those of a forward pass."""
    return 3.0 * job.shape["flops"]


def check_outputs(outputs: np.ndarray, reference: np.ndarray, candidate: Candidate) -> tuple[float, bool]:
    """Compares the losses of the first steps with the reference. Wrong gradients or updates change these losses."""
    if outputs.shape != reference.shape or not np.isfinite(outputs).all():
        return float("inf"), False
    difference = float(np.abs(outputs / reference - 1.0).max())
    return difference, difference <= MAX_DIFFERENCE[candidate.precision]
