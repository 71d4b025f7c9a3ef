"""torch.export program (.pt2) without pickled objects; runs in PyTorch without vitkit."""

from pathlib import Path

import torch

from vitkit.export.trace import Traced

TOLERANCES = {"float32": 1e-4}


def write(traced: Traced, path: Path, precision: str) -> None:
    """Writes the archive for `torch.export.load`."""
    torch.export.save(traced.program, path)
