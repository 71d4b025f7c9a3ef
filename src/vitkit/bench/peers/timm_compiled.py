"""timm under torch.compile: the fastest that its own benchmark script reports; `compile=MODE` for another mode."""

import dataclasses

from vitkit.bench import Contender, Job, Prepared
from vitkit.bench.peers import timm

NEEDS = timm.NEEDS
LAYOUT = timm.LAYOUT


def precisions(kind: str, device: str) -> tuple[str, ...]:
    """Those of timm."""
    return timm.precisions(kind, device)


def inference(job: Job, contender: Contender) -> Prepared:
    """timm's model, compiled; with CUDA graphs where there is a GPU."""
    return timm.inference(job, _compiled(contender, "reduce-overhead" if job.device == "cuda" else "default"))


def training(job: Job, contender: Contender) -> Prepared:
    """A step of timm's model, compiled."""
    return timm.training(job, _compiled(contender, "default"))


def _compiled(contender: Contender, mode: str) -> Contender:
    settings = {"compile": mode} | dict(contender.settings)
    return dataclasses.replace(contender, settings=tuple(settings.items()))
