"""Reads files written by `torch.save`: zip archives and the legacy format, with pickle protocols 0 to 5.

TorchScript archives have the same layout. Their weights are read, and their code is never run.
The pickle is read as data (`_pickle`): numbers, paths, Namespaces and instances of any other class next to the
tensors are ignored, and none of them is imported or called. Values of tensors are memory-mapped.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError, listing
from vitkit.checkpoints.containers._pickle import parse_pickle
from vitkit.checkpoints.containers._storages import Storage, StoredTensor, rebuild, storage_of
from vitkit.checkpoints.containers._trees import Tree, flatten, is_module, is_script
from vitkit.checkpoints.containers._zip import check_directory, check_total, damaged_archives
from vitkit.checkpoints.tensors import Tensors
from vitkit.regular import open_regular

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE = 64 << 20
MAX_LEGACY_PICKLE = 16 << 20
#: Returns a storage as a flat uint8 tensor.
Values = Callable[[Storage], Tensor]


def open_file(path: Path, *, inside_modules: bool = False) -> Tensors:
    """Opens a file written by `torch.save`. Nested tensors get dotted names. Other values are ignored.

    With `inside_modules`, pickled modules are read as dicts of their parameters and buffers.
    """
    with open_regular(path) as file:
        zipped = file.read(4) == ZIP
    value, values = _read_zip(path) if zipped else _read_legacy(path)
    tree = flatten(value, inside_modules=inside_modules)
    if not tree.tensors:
        raise CheckpointError(_no_tensors(value, tree))

    def read(name: str) -> Tensor:
        tensor = tree.tensors[name]
        if tensor.problem:
            raise CheckpointError(f"the tensor {name[:80]!r} cannot be read: it is {tensor.problem}")
        return tensor.read(values)

    notes = ()
    if is_script(value):
        notes = ("TorchScript archive: its weights are read, and its code is not run",)
    elif tree.modules and not inside_modules:
        notes = (f"ignored: pickled modules ({listing(list(tree.modules), 3)})",)
    return Tensors({name: each.info for name, each in tree.tensors.items()}, read, tuple(tree.roots), notes)


def _no_tensors(value: Any, tree: Tree) -> str:
    if tree.modules or is_module(value):
        kind = next(iter(tree.modules), getattr(value, "name", ""))
        return (
            f"the file contains a pickled module ({kind[:80]}), whose code vitkit does not run; "
            "load it with the code that defines it and save the weights: torch.save(model.state_dict(), 'weights.pth')"
        )
    if isinstance(value, StoredTensor):
        return "the file contains a single tensor; save a dict of tensors: torch.save(model.state_dict(), path)"
    kind = getattr(value, "name", type(value).__name__)
    return (
        f"the file contains no tensors (only a {kind[:60]}); save a dict of tensors: "
        "torch.save(model.state_dict(), path)"
    )


def _read_zip(path: Path) -> tuple[Any, Values]:
    check_directory(path, "file of torch.save")
    with damaged_archives(), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        root = _root(members)
        size = path.stat().st_size
        # torch compresses only the code of TorchScript, which is not read.
        check_total([each for each in archive.infolist() if not each.filename.startswith(f"{root}code/")], size, size)
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
        data = _stored(archive, members[f"{root}data.pkl"])
    value, _ = parse_pickle(data, 0, rebuild, storage_of)

    def values(storage: Storage) -> Tensor:
        member = members.get(f"{root}data/{storage.key}")
        size = storage.numel * storage.dtype.itemsize
        if member is None or member.file_size < size or member.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"the storage {storage.key[:40]!r} of a tensor is missing, truncated or compressed; copy the file again"
            )
        with open_regular(path) as file:
            file.seek(member.header_offset)
            header = file.read(30)
            if len(header) < 30 or not header.startswith(ZIP):
                raise CheckpointError("the zip archive is damaged; download or copy the file again")
            start = member.header_offset + 30 + int.from_bytes(header[26:28], "little")
            start += int.from_bytes(header[28:30], "little")
        return _mapped(path, start, size, storage, swap=order == b"big")

    return value, values


def _root(members: dict[str, zipfile.ZipInfo]) -> str:
    """Returns the folder of data.pkl in an archive. Raises CheckpointError for torch.export files."""
    for name in members:
        folder, _, file = name.partition("/")
        if file.startswith(("models/", "archive_format")) or name.startswith(("models/", "serialized_exported")):
            raise CheckpointError("the file is a torch.export program; pass the checkpoint from which it was exported")
        if file == "data.pkl":
            return f"{folder}/"
    raise CheckpointError(
        "the zip archive has no data.pkl, so torch.save did not write it; unpack it if it contains a weights file"
    )


def _stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MAX_PICKLE:
        raise CheckpointError(
            f"data.pkl has {member.file_size:,} bytes; the limit is {MAX_PICKLE:,} bytes; save only the state_dict"
        )
    return archive.read(member)


def _mapped(path: Path, start: int, size: int, storage: Storage, *, swap: bool) -> Tensor:
    """Memory-maps bytes of a file as a flat uint8 tensor. Writing to the tensor does not change the file."""
    if start + size > path.stat().st_size:
        raise CheckpointError("the file written by torch.save is truncated; download or copy the file again")
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    array = np.memmap(path, dtype=np.uint8, mode="c", offset=start, shape=(size,))
    item = storage.dtype.itemsize
    if swap and item > 1:
        array = array.view(np.dtype(f"u{min(item, 8)}")).byteswap().view(np.uint8)
    elif array.ctypes.data % item:
        array = array.copy()
    return torch.from_numpy(array)


def _read_legacy(path: Path) -> tuple[Any, Values]:
    """Reads a file written by torch before 1.6: the pickled header, the pickled object, then the storages."""
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        storage = storage_of(identity)
        return storages.setdefault(storage.key, storage) if storage.start == 0 else storage

    with open_regular(path) as file:
        data = file.read(MAX_LEGACY_PICKLE)
    position, parts = 0, []
    # Magic number, protocol version, system, object, keys of storages; a plain pickle is the object alone.
    for _ in range(5):
        part, position = parse_pickle(data, position, rebuild, persistent)
        parts.append(part)
        if parts[0] != MAGIC:
            return part, _no_values
    spans = _spans(path, position, parts[4], storages)

    def values(storage: Storage) -> Tensor:
        if storage.key not in spans:
            raise CheckpointError(
                f"the storage {storage.key[:40]!r} of a tensor is missing, so the file is damaged; copy the file again"
            )
        return _mapped(path, spans[storage.key], storage.numel * storage.dtype.itemsize, storage, swap=False)

    return parts[3], values


def _spans(path: Path, position: int, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Returns the position of the first value of each storage. The size of a storage precedes its values."""
    spans: dict[str, int] = {}
    with open_regular(path) as file:
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in storages:
                break  # its size in bytes is not known, so nothing after it can be found
            file.seek(position)
            if int.from_bytes(file.read(8), "little") != storages[key].numel:
                break
            spans[key] = position + 8
            position += 8 + storages[key].numel * storages[key].dtype.itemsize
    return spans


def _no_values(storage: Storage) -> Tensor:
    raise CheckpointError(f"the storage {storage.key[:40]!r} of a tensor is not in the file; copy the file again")
