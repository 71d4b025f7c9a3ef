"""Files written by `torch.save`, always read with `weights_only=True`.

Besides tensors, only plain values and `argparse.Namespace` (in official DINO and MAE files) are allowed. DALL-E's
encoder was published as a pickled module: its classes are replaced by an empty class that only receives attributes.
Any other class is an error.
"""

import argparse
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.tensors import Info, Tensors

MAX_DEPTH = 8
ZIP = b"PK\x03\x04"
# Classes in DALL-E's encoder.pkl; none of them is imported or called.
MODULES = (
    *("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock", "dall_e.utils.Conv2d"),
    *("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Identity"),
    *("torch.nn.modules.activation.ReLU", "torch.nn.modules.pooling.MaxPool2d"),
)


class Shell:
    """Replaces the class of a pickled module; has its attributes as data."""


def open_file(path: Path) -> Tensors:
    """Opens a file; tensors in nested dicts get dotted names, other values are ignored.

    Zip files (torch 1.6 and later) are memory-mapped, older files are read completely.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == ZIP
    if zipped:
        _check_archive(path)
    loaded = _load(path, zipped)
    if isinstance(loaded, Shell):
        loaded = _inside(loaded, 0)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"contains {type(loaded).__name__}, expected a dict of tensors")
    tensors = dict(_flatten(loaded, "", 0))
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return Tensors(infos, lambda name: tensors[name].detach())


def _load(path: Path, zipped: bool) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *((Shell, name) for name in MODULES)]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # untrusted bytes: any failure of the unpickler is an invalid file
        raise CheckpointError(_reason(str(error))) from None


def _inside(shell: Shell, depth: int) -> dict[object, object]:
    """Returns the parameters, buffers and submodules of a pickled module as nested dicts."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"modules nested deeper than {MAX_DEPTH}")
    attributes = vars(shell)
    parts = [attributes.get(kind) for kind in ("_parameters", "_buffers", "_modules")]
    found = {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}
    return {name: _inside(value, depth + 1) if isinstance(value, Shell) else value for name, value in found.items()}


def _reason(text: str) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"the pickle needs {found[1]}; only tensors and plain values are supported, other classes can run code"
    if ".tar" in text:
        return "the file is a .tar of torch 0.1, which is not supported because unpickling it can run code"
    return "the file is damaged or was not written by torch.save"


def _check_archive(path: Path) -> None:
    """Rejects archives that unpack to more than the file size; torch does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, RuntimeError, ValueError) as error:  # RuntimeError: unsupported zip version
        raise CheckpointError(f"the archive is damaged: {str(error)[:120]}") from None
    size = path.stat().st_size
    if unpacked > size:
        raise CheckpointError(f"zip bomb: {size:,} bytes unpack to {unpacked:,}")


def _flatten(value: Mapping[object, object], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if depth > MAX_DEPTH:
        raise CheckpointError(f"dicts nested deeper than {MAX_DEPTH}")
    for key, item in value.items():
        if isinstance(item, Tensor):
            yield f"{prefix}{key}", item
        elif isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key}.", depth + 1)


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{name[:80]!r} is not a plain dense tensor")
    stored, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    # A stride of zero gives a huge shape from a single value; copying it would fill the memory.
    if needed > stored:
        raise CheckpointError(f"{name[:80]!r} has shape {tuple(tensor.shape)}, but only {stored:,} bytes of data")
