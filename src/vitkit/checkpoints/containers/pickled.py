"""Files of `torch.save`: the only place that calls `torch.load`, always with `weights_only=True`, no way around it.

What such a file may hold beside tensors is plain values and `argparse.Namespace`, which the official DINO and MAE files
keep their arguments in, and which is data. DALL-E's encoder was published as a pickled module: an empty class stands in
for its classes, by name, and takes their attributes and nothing else. Anything else is refused by name.
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
# The classes of DALL-E's encoder, none of which is imported or called.
MODULES = (
    *("dall_e.encoder.Encoder", "dall_e.encoder.EncoderBlock", "dall_e.utils.Conv2d"),
    *("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Identity"),
    *("torch.nn.modules.activation.ReLU", "torch.nn.modules.pooling.MaxPool2d"),
)


class Shell:
    """What stands in for a pickled module: its attributes, as data."""


def open_file(path: Path) -> Tensors:
    """The tensors of one file, those of nested dicts under dotted names; values that are no tensors are left out.

    A zipped file (torch 1.6 and later) is mapped into memory, an older one is read whole.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == ZIP
    if zipped:
        _check_archive(path)
    loaded = _load(path, zipped)
    if isinstance(loaded, Shell):
        loaded = _inside(loaded, 0)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"holds {type(loaded).__name__}, not tensors under names")
    tensors = dict(_flatten(loaded, "", 0))
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    infos = {name: Info(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return Tensors(infos, lambda name: tensors[name].detach())


def _load(path: Path, zipped: bool) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *((Shell, name) for name in MODULES)]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # the unpickler meets whatever bytes there are: any failure of it is a bad file
        raise CheckpointError(_reason(str(error))) from None


def _inside(shell: Shell, depth: int) -> dict[Any, Any]:
    """The parameters of a pickled module, those of its parts in dicts of their own."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"modules nested deeper than {MAX_DEPTH}")
    held = vars(shell)
    parts = [held.get(kind) for kind in ("_parameters", "_buffers", "_modules")]
    found = {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}
    return {name: _inside(value, depth + 1) if isinstance(value, Shell) else value for name, value in found.items()}


def _reason(text: str) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it is a pickle that wants {found[1]}: only tensors and plain values are read, no code is run"
    if ".tar" in text:
        return "it is a .tar of torch 0.1, which only pickle can read, and pickle runs code: it is not read"
    return "it is damaged, or no file of tensors as torch.save writes them"


def _check_archive(path: Path) -> None:
    """Torch stores members as they are; one that unpacks to more than the file holds was not written by it."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, RuntimeError, ValueError) as error:  # RuntimeError: a newer kind of zip
        raise CheckpointError(f"the archive is damaged: {str(error)[:120]}") from None
    size = path.stat().st_size
    if unpacked > size:
        raise CheckpointError(f"a bomb: {size:,} bytes that unpack to {unpacked:,}")


def _flatten(value: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
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
    held, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    # A stride of zero makes a shape of any size of one number, which a copy would then fill memory with.
    if needed > held:
        raise CheckpointError(f"{name[:80]!r} has the shape {tuple(tensor.shape)}, but only {held:,} bytes behind it")
