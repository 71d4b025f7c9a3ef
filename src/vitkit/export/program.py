"""A program of torch.export (.pt2): PyTorch without this package; holds no pickle."""

from pathlib import Path

import torch

from vitkit.export.trace import Traced

TOLERANCES = {"float32": 1e-4}


def write(traced: Traced, path: Path, precision: str) -> None:
    """Writes the archive, which `torch.export.load` reads anywhere."""
    torch.export.save(traced.program, path)
