"""timm with torch.compile, by default in the fastest mode that timm's benchmark script offers."""

import dataclasses

from vitkit.bench import Candidate, Job, Prepared
from vitkit.bench.peers import timm

NEEDS = timm.NEEDS
LAYOUT = timm.LAYOUT


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Returns the same precisions as the peer `timm`."""
    return timm.precisions(kind, device)


def inference(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs forward passes of timm's compiled model, with CUDA graphs on a GPU."""
    return timm.inference(job, _compiled(candidate, "reduce-overhead" if job.device == "cuda" else "default"))


def training(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs training steps of timm's compiled model."""
    return timm.training(job, _compiled(candidate, "default"))


def _compiled(candidate: Candidate, mode: str) -> Candidate:
    settings = {"compile": mode} | dict(candidate.settings)
    return dataclasses.replace(candidate, settings=tuple(settings.items()))
