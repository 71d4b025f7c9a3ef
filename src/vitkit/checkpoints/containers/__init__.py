"""Weights files: one module per file type, with `open_file(path) -> Tensors`.

`open_file` reads headers only. Headers are validated, also against the file size, before memory is allocated for
values. No code is executed.
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
    ".tar": "pickled",  # MoCo v3's .pth.tar files are not tar archives
    ".json": "sharded",
}


def open_weights(path: Path) -> Tensors:
    """Opens a weights file by its suffix; CheckpointError with the file name if it is invalid."""
    from importlib import import_module

    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise CheckpointError(f"{path.name} is not a weights file; supported suffixes are {', '.join(SUFFIXES)}")
    try:
        return import_module(f"{__name__}.{kind}").open_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or type(error).__name__}") from None
