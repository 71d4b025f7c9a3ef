"""Exports models as torch.export programs (.pt2). The complete file is checked before PyTorch loads it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vitkit import atomic
from vitkit.checkpoints import CheckpointError
from vitkit.inference.runtimes._exported import Runner
from vitkit.inference.runtimes._program_check import check
from vitkit.inference.runtimes._trace import Traced
from vitkit.regular import open_regular

FILE = "model.pt2"
TOLERANCES = {"float32": 1e-4}


def write(traced: Traced, path: Path, precision: str) -> None:
    """Writes a .pt2 archive, which `torch.export.load` can read."""
    with atomic.open_deferred(path) as file:
        torch.export.save(traced.program, file)


def open_file(path: Path, outputs: Sequence[str]) -> Runner:
    """Loads a program. Raises CheckpointError if the archive could execute code, or if PyTorch cannot load it."""
    with open_regular(path) as file:
        check(file, path.name)
        file.seek(0)
        try:
            with warnings.catch_warnings():
                # torch 2.9 warns about read-only buffers; the weights of a program are never written.
                warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
                module = torch.export.load(file).module()
        except Exception:
            # torch raises many types of exceptions, also AssertionError, for invalid programs.
            raise CheckpointError(f"{path.name} is not a program that PyTorch {torch.__version__} can load") from None
    positions = {name: index for index, name in enumerate(outputs)}

    def run(images: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        with torch.inference_mode():
            values = module(torch.from_numpy(images))
        return [values[positions[name]].numpy() for name in wanted]

    return run
