"""Containers: one file per kind of weights file, each with `open_file(path) -> Tensors`, which reads headers only.

A header is checked whole, and against the size of the file, before memory is taken for values; no container runs code.
"""

from pathlib import Path

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.tensors import Tensors

SUFFIXES = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".pth": "pickled",
    ".pt": "pickled",
    ".bin": "pickled",
    ".ckpt": "pickled",
    ".pkl": "pickled",
    ".tar": "pickled",  # as in MoCo v3's .pth.tar, which is no archive of files
    ".json": "sharded",
}


def open_weights(path: Path) -> Tensors:
    """The tensors of any weights file, chosen by its suffix; CheckpointError, which names it, for anything else."""
    from importlib import import_module

    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise CheckpointError(f"{path.name} is no weights file: those end in {', '.join(SUFFIXES)}")
    try:
        return import_module(f"{__name__}.{kind}").open_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or type(error).__name__}") from None
