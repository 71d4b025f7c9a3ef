"""Benchmark of forward passes on a batch in memory, with the same weights and images in all libraries."""

from collections.abc import Sequence

import numpy as np

from vitkit.bench import Candidate, Job, Options
from vitkit.bench.kinds import make_job

UNIT = "images/s"
SHOWS_SECONDS = False
DEFAULTS = {"precisions": ("float32", "bfloat16")}
NEEDS_WEIGHTS, NUM_IMAGES = True, 0
REFERENCES = (("timm", "float32"), ("transformers", "float32"), ("vitkit", "float32"))
DIFFERENCE = "relative difference of the logits"
# Largest relative difference of logits. Rounding to bfloat16 in every layer gives about 0.01, to int8 about 0.1; a
# wrong weight or a missing layer gives 0.5 or more.
MAX_DIFFERENCE = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 6e-2, "int8": 0.25, "float8": 0.25}
DEFAULT_MAX_DIFFERENCE = 6e-2


def jobs(options: Options) -> list[Job]:
    """Returns one job per model and batch size."""
    return [make_job(options, model, batch) for model in options.models for batch in options.batches]


def limits(job: Job, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidates that measure hardware limits: matrix products in each precision, and a memory copy."""
    from vitkit.bench import roofline

    precisions = {each.precision for each in candidates}
    chosen = [precision for precision in roofline.PRODUCTS if precision in precisions] or ["float32"]
    return [
        Candidate(peer="limit", precision=precision, module="vitkit.bench.roofline")
        for precision in (*chosen, roofline.COPY)
    ]


def work(job: Job) -> float:
    """Returns the work per image: the FLOPs of a forward pass."""
    return float(job.shape["flops"])


def check_outputs(outputs: np.ndarray, reference: np.ndarray, candidate: Candidate) -> tuple[float, bool]:
    """Returns the relative error of the logits, and whether rounding in the candidate's precision explains it."""
    if outputs.shape != reference.shape or not np.isfinite(outputs).all():
        return float("inf"), False
    difference = float(np.linalg.norm(outputs - reference) / np.linalg.norm(reference))
    return difference, difference <= MAX_DIFFERENCE.get(candidate.precision, DEFAULT_MAX_DIFFERENCE)
