"""Whole processes: until the model's classes are imported, and until one photo is classified."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vitkit import memory
from vitkit.bench import Contender, Job, Options, Prepared
from vitkit.bench.kinds import job_of

UNIT = "s"
SHOWS_SECONDS = True
DEFAULTS = {"models": ("vit-ti/16",), "precisions": ("all",), "batches": (1,)}
NEEDS_WEIGHTS, NEEDS_PHOTOS = True, 1
REFERENCES = (("transformers", ""), ("timm", ""), ("vitkit", ""))
DIFFERENCE = "another likeliest class (0 is the same)"


def jobs(options: Options) -> list[Job]:
    """Two sections for each model."""
    return [
        replace(job_of(options, model, 1), task=task) for model in options.models for task in ("import", "classify")
    ]


def limits(job: Job, contenders: Sequence[Contender]) -> list[Contender]:
    """`import torch`, which all of them need."""
    return [Contender(peer="limit", precision="import torch", module=__name__)]


def startup(job: Job, contender: Contender) -> Prepared:
    """The limit itself."""
    return processes([sys.executable, "-c", "import torch"], 0)


def work(job: Job) -> float:
    """One process is one process."""
    return 1.0


def judge(outputs: np.ndarray, reference: np.ndarray, contender: Contender) -> tuple[float, bool]:
    """The same likeliest class."""
    same = bool((outputs == reference).all()) if outputs.shape == reference.shape else False
    return float(not same), same


def processes(command: Sequence[str], answers: int) -> Prepared:
    """A contender whose run is a whole process; with `answers` its last line says the likeliest class.

    Raises ValueError with the last line of standard error where the process fails.
    """

    def run() -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing"]
            raise ValueError(f"exit code {done.returncode}: {said[-1]}")
        return done.stdout.strip().splitlines()[-1] if answers else ""

    said = run()
    outputs = np.array([_index(said)]) if answers else None
    notes = {"process": " ".join(command[1:3])[:60]}
    return Prepared(run=run, items=1, outputs=outputs, notes=notes, peak=partial(memory.peak, children=True))


def _index(said: str) -> int:
    if not said.startswith("{"):
        return int(said)
    return int(json.loads(said)["predictions"][0]["index"])
