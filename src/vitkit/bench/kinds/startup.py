"""Benchmark of complete processes, which import the model classes or classify one image."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vitkit import memory
from vitkit.bench import Candidate, Job, Options, Prepared
from vitkit.bench.kinds import make_job

UNIT = "s"
SHOWS_SECONDS = True
DEFAULTS = {"models": ("vit-ti/16",), "precisions": ("all",), "batches": (1,)}
NEEDS_WEIGHTS, NUM_IMAGES = True, 1
REFERENCES = (("transformers", ""), ("timm", ""), ("vitkit", ""))
DIFFERENCE = "predicted class (0: the same as the reference, 1: another)"


def jobs(options: Options) -> list[Job]:
    """Returns two jobs per model: one that imports the library, and one that classifies an image."""
    return [
        replace(make_job(options, model, 1), task=task) for model in options.models for task in ("import", "classify")
    ]


def limits(job: Job, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the candidate that measures the speed limit, which is a process that only imports torch."""
    return [Candidate(peer="limit", precision="import torch", module=__name__)]


def startup(job: Job, candidate: Candidate) -> Prepared:
    """Returns a prepared candidate that runs a process which only imports torch."""
    return prepare_process([sys.executable, "-c", "import torch"], classifies=False)


def work(job: Job) -> float:
    """Returns the work per item, in processes, which is the unit of the speed limit."""
    return 1.0


def check_outputs(outputs: np.ndarray, reference: np.ndarray, candidate: Candidate) -> tuple[float, bool]:
    """Compares the predicted class with that of the reference."""
    same = bool((outputs == reference).all()) if outputs.shape == reference.shape else False
    return float(not same), same


def prepare_process(command: Sequence[str], *, classifies: bool) -> Prepared:
    """Returns a prepared candidate that runs a process, which prints the predicted class if `classifies` is True.

    Raises ValueError with the last line of standard error if the process fails.
    """

    def run() -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = done.stderr.strip().splitlines() or ["no output"]
            raise ValueError(f"the process failed with exit code {done.returncode}: {errors[-1]}")
        return done.stdout.strip().splitlines()[-1] if classifies else ""

    output = run()
    outputs = np.array([_index(output)]) if classifies else None
    notes = {"process": " ".join(command[1:3])[:60]}
    return Prepared(run=run, items=1, outputs=outputs, notes=notes, peak=partial(memory.peak, children=True))


def _index(output: str) -> int:
    if not output.startswith("{"):
        return int(output)
    return int(json.loads(output)["predictions"][0]["index"])
