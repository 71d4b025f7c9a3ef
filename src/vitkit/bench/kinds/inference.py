"""One forward pass of the network on a batch in memory: the same weights, the same pictures, outputs compared."""

from collections.abc import Sequence

import numpy as np

from vitkit.bench import Contender, Job, Options
from vitkit.bench.kinds import job_of

UNIT = "images/s"
SHOWS_SECONDS = False
DEFAULTS = {"precisions": ("float32", "bfloat16")}
NEEDS_WEIGHTS, NEEDS_PHOTOS = True, 0
REFERENCES = (("timm", "float32"), ("transformers", "float32"), ("vitkit", "float32"))
DIFFERENCE = "relative difference of the logits"
# How far logits may be from the reference's, as a share of their norm. Rounding to bfloat16 (8 bits) in every layer
# gives about 0.01, to int8 about 0.1; a wrong weight or a forgotten layer gives 0.5 or more.
FAR = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 6e-2, "int8": 0.25, "float8": 0.25}
FAR_OTHERWISE = 6e-2


def jobs(options: Options) -> list[Job]:
    """A section for each model and batch."""
    return [job_of(options, model, batch) for model in options.models for batch in options.batches]


def limits(job: Job, contenders: Sequence[Contender]) -> list[Contender]:
    """The products in every precision that is raced, and a copy."""
    from vitkit.bench import roofline

    raced = {each.precision for each in contenders}
    chosen = [precision for precision in roofline.PRODUCTS if precision in raced] or ["float32"]
    return [
        Contender(peer="limit", precision=precision, module="vitkit.bench.roofline")
        for precision in (*chosen, roofline.COPY)
    ]


def work(job: Job) -> float:
    """Floating-point operations of one image, what the limit is counted in."""
    return float(job.shape["flops"])


def judge(outputs: np.ndarray, reference: np.ndarray, contender: Contender) -> tuple[float, bool]:
    """||logits - reference|| / ||reference||, and whether that is what the precision's rounding explains."""
    if outputs.shape != reference.shape or not np.isfinite(outputs).all():
        return float("inf"), False
    difference = float(np.linalg.norm(outputs - reference) / np.linalg.norm(reference))
    return difference, difference <= FAR.get(contender.precision, FAR_OTHERWISE)
