"""Reads and writes NumPy `.npz` archives. Array headers are validated before memory is allocated."""

import math
import tokenize
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.containers._zip import check_directory, check_total, damaged_archives
from vitkit.checkpoints.tensors import Info, Tensors

# Weights compress little: a large archive with a higher compression ratio is a zip bomb.
MAX_RATIO = 50
SMALL = 64 << 20
CHUNK = 1 << 20
STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "V2": torch.bfloat16,  # numpy has no bfloat16 and saves JAX's as two untyped bytes
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}

# Whatever numpy raises for the text of a header.
HEADER_ERRORS = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError, UserWarning)

Header = tuple[tuple[int, ...], bool, np.dtype]


def open_file(path: Path) -> Tensors:
    """Opens an `.npz` archive. The suffix `.npy` of the members is removed from the tensor names."""
    members = _members(path)
    infos: dict[str, Info] = {}
    with damaged_archives(), zipfile.ZipFile(path) as archive:
        for name, member in members.items():
            with archive.open(member) as file:
                shape, _, dtype = _header(file, name, member.file_size)
            infos[name] = Info(shape, DTYPES[dtype.str[1:]])
    return Tensors(infos, lambda name: _read(path, members[name], name))


def write_npz(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes an `.npz` archive of tensors. Their dtypes are kept, except that bfloat16 becomes float32."""
    arrays = {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
        for name, tensor in tensors.items()
    }
    # Not np.savez: numpy 1.26 leaves an open archive behind, which prints an error if the disk is full.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    check_directory(path, ".npz archive")
    with damaged_archives(), zipfile.ZipFile(path) as archive:
        found = archive.infolist()
    members: dict[str, zipfile.ZipInfo] = {}
    for member in found:
        name = member.filename.removesuffix(".npy")
        if not member.filename.endswith(".npy") or name.startswith("/") or ".." in name.split("/") or "\\" in name:
            raise CheckpointError(
                f"the .npz archive contains {member.filename[:80]!r}, which is not a .npy array; use numpy.savez"
            )
        if name in members:
            raise CheckpointError(
                f"the .npz archive has several arrays named {name[:80]!r}; save each array under its own name"
            )
        if member.compress_type not in STORED_OR_DEFLATED or member.flag_bits & 1:
            raise CheckpointError(
                f"the array {name[:80]!r} is encrypted or uses an unsupported compression; save it with numpy.savez"
            )
        members[name] = member
    size = path.stat().st_size
    check_total(members.values(), size, max(SMALL, MAX_RATIO * size))
    return members


def _header(file: IO[bytes], name: str, size: int) -> Header:
    """Returns the shape, Fortran order and dtype of an archive member after checking them against the member's size."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            version = npy.read_magic(file)
            readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"version {version} of the .npy format is not supported; expected (1, 0) or (2, 0)")
            shape, fortran, dtype = readers[version](file)
    except (*HEADER_ERRORS, tokenize.TokenError):
        raise CheckpointError(
            f"the array {name[:80]!r} has an invalid .npy header; download or copy the file again"
        ) from None
    if dtype.hasobject:
        raise CheckpointError(
            f"{name[:80]!r} is an array of pickled Python objects, which vitkit does not read, because unpickling "
            "can run code"
        )
    if dtype.str[1:] not in DTYPES:
        raise CheckpointError(f"the array {name[:80]!r} has dtype {dtype}, expected one of {', '.join(DTYPES)}")
    if any(type(side) is not int or side < 0 for side in shape) or len(shape) > 8:
        raise CheckpointError(f"the array {name[:80]!r} has shape {str(shape)[:80]}, expected at most 8 integers >= 0")
    declared = math.prod(shape) * dtype.itemsize
    if declared != size - file.tell():
        raise CheckpointError(
            f"the array {name[:80]!r} of dtype {dtype} and shape {shape} needs {declared:,} bytes, "
            f"but the archive has {size - file.tell():,}"
        )
    return shape, fortran, dtype


def _read(path: Path, member: zipfile.ZipInfo, name: str) -> Tensor:
    with damaged_archives(), zipfile.ZipFile(path) as archive, archive.open(member) as file:
        shape, fortran, dtype = _header(file, name, member.file_size)
        buffer = bytearray(math.prod(shape) * dtype.itemsize)
        filled = _fill(file, buffer)
        if filled != len(buffer):
            raise CheckpointError(
                f"{path.name}: the array {name!r} is truncated after {filled:,} of {len(buffer):,} bytes; "
                "copy the file again"
            )
        file.read(1)  # reading to the end verifies the checksum
    array = np.frombuffer(buffer, dtype=np.dtype(("<" if dtype.str[1] == "V" else dtype.str[0]) + dtype.str[1:]))
    if dtype.str[1] == "V":
        array = array.view(np.int16)
    elif dtype.str[0] == ">":
        array = array.astype(dtype.newbyteorder("<"))
    tensor = torch.from_numpy(array)
    if dtype.str[1] == "V":
        tensor = tensor.view(torch.bfloat16)
    return tensor.reshape(shape[::-1]).permute(*range(len(shape))[::-1]) if fortran else tensor.reshape(shape)


def _fill(file: IO[bytes], buffer: bytearray) -> int:
    """Reads a stream into the buffer in chunks and returns the number of bytes read."""
    view, filled = memoryview(buffer), 0
    while chunk := file.read(min(CHUNK, len(buffer) - filled)) if filled < len(buffer) else b"":
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return filled
