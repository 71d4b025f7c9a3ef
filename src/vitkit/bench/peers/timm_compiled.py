"""timm with torch.compile, the fastest mode of its benchmark script; `compile=MODE` for another."""

import dataclasses

from vitkit.bench import Candidate, Job, Prepared
from vitkit.bench.peers import timm

NEEDS = timm.NEEDS
LAYOUT = timm.LAYOUT


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the precisions in which timm can be benchmarked."""
    return timm.precisions(kind, device)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Prepares timm's model, compiled; on a GPU with CUDA graphs."""
    return timm.inference(job, _compiled(candidate, "reduce-overhead" if job.device == "cuda" else "default"))


def training(job: Job, candidate: Candidate) -> Prepared:
    """Prepares training steps of timm's model, compiled."""
    return timm.training(job, _compiled(candidate, "default"))


def _compiled(candidate: Candidate, mode: str) -> Candidate:
    settings = {"compile": mode} | dict(candidate.settings)
    return dataclasses.replace(candidate, settings=tuple(settings.items()))
