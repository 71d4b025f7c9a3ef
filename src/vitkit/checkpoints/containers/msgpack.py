"""Reads Flax parameters from MessagePack files (transformers' `flax_model.msgpack`) in the layout of PyTorch.

Only maps, strings, integers and arrays are read. Kernels become weights: (in, out) is transposed, and the axes of
(height, width, in, out) are permuted.
"""

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.tensors import Info, Tensors
from vitkit.regular import open_regular

MAX_VALUES = 100_000
MAX_DEPTH = 32
MAX_AXES = 8
ARRAY = 1  # the extension type of flax.serialization
DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# First byte of a value: kind, bytes of its length.
LENGTHS: dict[int, tuple[str, int]] = {
    **{0xC4 + power: ("bytes", 1 << power) for power in range(3)},
    **{0xC7 + power: ("extension", 1 << power) for power in range(3)},
    **{0xD9 + power: ("text", 1 << power) for power in range(3)},
    **{0xDC + power: ("list", 2 << power) for power in range(2)},
    **{0xDE + power: ("map", 2 << power) for power in range(2)},
}
# First byte of a number or constant: its size in bytes.
SCALARS = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}


class _Reader:
    """Reads MessagePack values from the bytes of a file. The bytes of arrays are not copied."""

    def __init__(self, data: Any, position: int, end: int):
        self.data, self.position, self.end, self.count = data, position, end, 0

    def span(self, length: int) -> slice:
        """Returns the range of the next `length` bytes as a slice, and advances the position by `length`."""
        start = self.position
        if length > self.end - start:
            raise CheckpointError("the MessagePack file is truncated or damaged; download or copy the file again")
        self.position += length
        return slice(start, self.position)

    def number(self, length: int) -> int:
        """Reads an unsigned big-endian integer of `length` bytes."""
        return int.from_bytes(self.data[self.span(length)], "big")

    def value(self, depth: int = 0) -> Any:
        """Returns the next value: a map as a list of pairs, a list as a tuple, and bytes as a slice of the file."""
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            raise CheckpointError(
                f"the MessagePack file has more than {MAX_VALUES:,} values or {MAX_DEPTH} nested levels; "
                "expected the parameters of a model"
            )
        code = self.number(1)
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        kind, length = self._kind(code)
        if kind == "map":
            return [(self.value(depth + 1), self.value(depth + 1)) for _ in self._counted(length)]
        if kind == "list":
            return tuple(self.value(depth + 1) for _ in self._counted(length))
        if kind == "text":
            return bytes(self.data[self.span(length)]).decode("utf-8", "backslashreplace")
        if kind == "extension":
            return self._array(self.number(1), self.span(length), depth)
        return self.span(length) if kind == "bytes" else self._scalar(code, length)

    def _kind(self, code: int) -> tuple[str, int]:
        if code in SCALARS:
            return "scalar", SCALARS[code]
        if code in LENGTHS:
            kind, size = LENGTHS[code]
            return kind, self.number(size)
        if 0xD4 <= code <= 0xD8:
            return "extension", 1 << (code - 0xD4)
        if code == 0xC1:
            raise CheckpointError("the file is not in MessagePack format; download or copy the file again")
        kind = "map" if code < 0x90 else "list" if code < 0xA0 else "text"
        return kind, code & (0x1F if kind == "text" else 0x0F)

    def _counted(self, length: int) -> range:
        if length > self.end - self.position:  # every value takes a byte
            raise CheckpointError("the MessagePack file is truncated or damaged; download or copy the file again")
        return range(length)

    def _scalar(self, code: int, length: int) -> int | None:
        value = self.number(length)
        return None if code == 0xC0 else value

    def _array(self, kind: int, span: slice, depth: int) -> Any:
        if kind != ARRAY:
            return None
        inside = _Reader(self.data, span.start, span.stop)
        parts = inside.value(depth + 1)
        self.count += inside.count
        if not isinstance(parts, tuple) or len(parts) != 3:
            raise CheckpointError("an array in the MessagePack file is damaged; download or copy the file again")
        return _Array(*parts)


class _Array:
    """The shape, dtype and bytes of an array."""

    def __init__(self, shape: Any, dtype: Any, span: Any):
        sides = shape if isinstance(shape, tuple) else ()
        if not isinstance(span, slice) or not isinstance(dtype, str) or dtype not in DTYPES or len(sides) > MAX_AXES:
            raise CheckpointError(
                f"an array in the MessagePack file is damaged or has the unsupported dtype {str(dtype)[:40]!r}; "
                f"expected one of {', '.join(DTYPES)}"
            )
        if not all(type(side) is int and side >= 0 for side in sides):
            raise CheckpointError(
                "an array in the MessagePack file has an invalid shape; download or copy the file again"
            )
        self.shape, self.dtype, self.start = sides, DTYPES[dtype], span.start
        if math.prod(sides) * self.dtype.itemsize != span.stop - span.start:
            raise CheckpointError(
                "an array in the MessagePack file has more or fewer bytes than its shape needs; copy the file again"
            )


def open_file(path: Path) -> Tensors:
    """Opens a MessagePack file with nested maps of arrays. The keys are joined with dots to tensor names."""
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        arrays = dict(_flatten(_Reader(data, 0, len(data)).value(), ""))
    if not arrays:
        raise CheckpointError("the MessagePack file contains no arrays; pass the file with the model's parameters")
    order = {name: _axes(name, len(array.shape)) for name, array in arrays.items()}
    infos: dict[str, Info] = {}
    names: dict[str, str] = {}
    for name, array in arrays.items():
        stem, _, leaf = name.rpartition(".")
        new = f"{stem}.{LEAVES.get(leaf, leaf)}" if stem else name
        names[new] = name
        infos[new] = Info(tuple(array.shape[axis] for axis in order[name]), array.dtype)

    def read(name: str) -> Tensor:
        array = arrays[names[name]]
        if not (count := math.prod(array.shape)):
            return torch.empty(infos[name].shape, dtype=array.dtype)
        values = np.fromfile(path, np.uint8, count * array.dtype.itemsize, offset=array.start)
        return torch.from_numpy(values).view(array.dtype).reshape(array.shape).permute(order[names[name]])

    return Tensors(infos, read)


def _axes(name: str, axes: int) -> tuple[int, ...]:
    """Returns the axis permutation to PyTorch's layout: (out, in) or (out, in, height, width) for kernels."""
    if name.rpartition(".")[2] == "kernel":
        return {2: (1, 0), 4: (3, 2, 0, 1)}.get(axes, tuple(range(axes)))
    return tuple(range(axes))


def _flatten(value: Any, prefix: str) -> list[tuple[str, _Array]]:
    if isinstance(value, _Array):
        return [(prefix.removesuffix("."), value)]
    if not isinstance(value, list):
        return []
    if any(key == "__msgpack_chunked_array__" for key, _ in value):
        raise CheckpointError(
            "the MessagePack file has an array in chunks (larger than 1 GB), which vitkit does not support; "
            "save the parameters as .npz"
        )
    found: list[tuple[str, _Array]] = []
    for key, item in value:
        if isinstance(key, str) and len(prefix) + len(key) < 1000:
            found += _flatten(item, f"{prefix}{key}.")
    return found
