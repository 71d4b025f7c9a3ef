"""Tensors in a pickle: views of storages, each with an offset, a shape and strides."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.containers._pickle import Global, Object
from vitkit.checkpoints.tensors import Info

# Storage classes by name, without the module (`torch.FloatStorage`, `torch.cuda.FloatStorage`).
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
MAX_AXES = 8
REBUILD = "torch._utils._rebuild_"
# Functions that make a tensor of another kind; its values are not read.
OTHER_KINDS = {
    "sparse_tensor": "sparse",
    "sparse_csr_tensor": "sparse",
    "nested_tensor": "nested",
    "qtensor": "quantized",
    "meta_tensor_no_storage": "without values",
    "wrapper_subclass": "sharded or of a tensor subclass",
    "device_tensor_from_numpy": "of another device",
    "device_tensor_from_cpu_tensor": "of another device",
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage in the file, or a part of one: `numel` values of one dtype, starting with element `start`."""

    key: str
    dtype: torch.dtype
    numel: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in the file. `problem` is the reason why the values cannot be read, or "" if they can."""

    storage: Storage | None
    dtype: torch.dtype
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    problem: str = ""

    @property
    def info(self) -> Info:
        """The shape and dtype of the tensor, and the reason if its values cannot be read."""
        return Info(self.shape, self.dtype, self.problem)

    def read(self, values: Callable[[Storage], Tensor]) -> Tensor:
        """Returns the tensor as a view of its storage. `values` is a function that reads the bytes of a storage."""
        if self.storage is None or self.problem:
            raise CheckpointError(f"a tensor in the file cannot be read: it is {self.problem}")
        flat = values(self.storage).view(self.dtype)
        return flat.as_strided(self.shape, self.strides, self.offset + self.storage.start)


def storage_of(identity: Any) -> Storage:
    """Returns the storage of a persistent id in torch's format: ("storage", class, key, device, size[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise CheckpointError(
            "the pickle in the file has a persistent id in another format than that of torch.save; "
            "save the state_dict with torch.save"
        )
    kind, key, _, numel = identity[1:5]
    name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
    start = 0
    if len(identity) == 6 and identity[5] is not None:
        start = identity[5][1]
    if name not in STORAGES or not isinstance(key, str) or not _natural(numel) or not _natural(start):
        raise CheckpointError(
            f"the file has a storage of the unsupported class {name[:60]!r}; convert the tensors to float32"
        )
    return Storage(key, STORAGES[name], numel, start)


def rebuild(name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns the result of a function call in a pickle: a tensor, a shape, or None for any other function."""
    if name == "torch.Size" and len(arguments) == 1:
        return tuple(arguments[0]) if isinstance(arguments[0], tuple | list) else None
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        function, _, inner, _ = arguments
        return rebuild(function.name, inner) if isinstance(function, Global) and isinstance(inner, tuple) else None
    if not name.startswith(REBUILD):
        return None
    kind = name.removeprefix(REBUILD)
    if kind in ("parameter", "parameter_with_state") and arguments and isinstance(arguments[0], StoredTensor):
        return arguments[0]
    if kind in ("tensor", "tensor_v2", "tensor_v3") and len(arguments) >= 4:
        return _dense(kind, arguments)
    if kind in OTHER_KINDS:
        return StoredTensor(None, torch.float32, problem=f"{OTHER_KINDS[kind]}, not a plain dense tensor")
    return None


def _dense(kind: str, arguments: tuple[Any, ...]) -> StoredTensor:
    storage, offset, shape, strides = arguments[:4]
    shape = tuple(shape.arguments[0]) if isinstance(shape, Object) else tuple(shape)
    strides = tuple(strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError
    if not all(map(_natural, (offset, *shape, *strides))):
        raise ValueError
    dtype = storage.dtype
    if kind == "tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], Global):
        made = getattr(torch, arguments[6].name.removeprefix("torch."), None)
        dtype = made if isinstance(made, torch.dtype) else dtype
    problem = _problem(storage, dtype, offset, shape, strides)
    return StoredTensor(storage, dtype, offset, shape, strides, problem)


def _problem(
    storage: Storage, dtype: torch.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> str:
    """Returns the reason why a tensor does not fit its storage, or "" if it fits."""
    if len(shape) > MAX_AXES:
        return f"a tensor with {len(shape)} axes; the limit is {MAX_AXES}"
    stored = storage.numel * storage.dtype.itemsize
    needed = math.prod(shape) * dtype.itemsize
    # A stride of zero gives a huge shape from a single value; copying it would fill the memory.
    if needed > stored:
        return f"a tensor of shape {_shown(shape)}, but its storage has only {stored:,} bytes"
    last = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if 0 not in shape else -1
    if (storage.start + offset + last + 1) * dtype.itemsize > stored + storage.start * storage.dtype.itemsize:
        return "not completely inside its storage"
    return ""


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape) if all(side < 10**18 for side in shape) else "too large"


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
