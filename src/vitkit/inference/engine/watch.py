"""`Watch` detects changes of a model after it was copied.

`irregularity` finds parts that cannot be copied. Weights are not hashed, because hashing would take longer than a
forward pass. Instead, each storage of the model is marked as copy-on-write with a single owner. The first write through
any tensor, view, `.data` or NumPy array removes the mark (`torch._is_cow_tensor`) without copying the data. Reading
does not remove it. If PyTorch cannot mark a storage, or if other tensors or arrays may already refer to its memory, the
values are compared with a private copy.
"""

import dataclasses
import enum
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from vitkit import layers
from vitkit.layers.activations import CORE

# Immutable types. An attribute of such a type has changed only if it is another object.
CONSTANT = (
    *(type(None), bool, int, float, complex, str, bytes, type, range, enum.Enum, np.generic),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, types.BuiltinFunctionType),
)
# Attributes of a module with hooks that can change its inputs or outputs.
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Attributes of a module with dicts whose entries are compared.
CONTENTS = ("_parameters", "_buffers", "_modules")
GLOBAL_HOOKS: tuple[Mapping[int, object], ...] = (
    torch_module._global_forward_hooks,
    torch_module._global_forward_pre_hooks,
)
# Classes that the engine replaces with its own implementation. A patched method of these classes must be detected.
REPLACED: tuple[type, ...] = (
    *(nn.Linear, nn.Conv2d, nn.LayerNorm, nn.Identity, nn.Dropout),
    *(type(each.module()) for each in CORE.values()),
    *(layers.Attention, layers.BatchNorm, layers.Block, layers.DropPath, layers.LayerScale, layers.MLP),
    *(layers.PatchEmbed, layers.StdConv, layers.SwiGLU),
)
# The methods of nn.Module that affect outputs. Other methods are patched by libraries: transformers patches
# initialization.
CALLS = ("__call__", "_wrapped_call_impl", "_call_impl", "__getattr__")
FUNCTIONS = (
    *("linear", "conv2d", "layer_norm", "batch_norm", "group_norm", "scaled_dot_product_attention", "softmax", "pad"),
    *(name for each in CORE.values() if hasattr(F, name := type(each.module()).__name__.lower())),
)


def _methods(kind: type) -> dict[str, object]:
    plain = (types.FunctionType, property, classmethod, staticmethod)
    return {name: value for name, value in vars(kind).items() if isinstance(value, plain)}


def _functions() -> tuple[object, ...]:
    return (*(getattr(F, name) for name in FUNCTIONS), *(getattr(nn.Module, name) for name in CALLS))


GENERAL = (nn.Module, object)
# Subclasses are not accepted, because they may compute something else. Buffers are plain tensors.
TENSORS = (Tensor, nn.Parameter)
_STANDARD = frozenset(vars(nn.Module()))
_METHODS = {kind: _methods(kind) for kind in REPLACED}
_FUNCTIONS = _functions()
# The marked storages by address: a weak reference, which prevents reuse of the address, and the number of the mark.
_marks: dict[int, tuple[StorageWeakRef, int]] = {}
_times = count()
_lock = threading.Lock()


def irregularity(model: nn.Module) -> str | None:
    """Returns the first part that a copy cannot reproduce, such as "a forward hook on blocks.5", or None.

    Such parts are hooks, parametrizations, replaced methods, tensor subclasses, attributes whose changes cannot be
    detected, and modified functions of PyTorch or classes that the engine replaces.
    """
    if any(GLOBAL_HOOKS):
        return "a global forward hook of torch.nn"
    if not all(map(is_, _functions(), _FUNCTIONS)):
        return "a modified function of torch.nn"
    for kind, methods in _METHODS.items():
        if _methods(kind) != methods:
            return f"a modified class {kind.__name__}"
    for name, module in model.named_modules(remove_duplicate=False):
        if (found := _irregular_module(module)) is not None:
            return f"{found} on {name or 'the model'}"
    return None


def is_hooked(module: nn.Module) -> bool:
    """Returns whether a module has hooks or a replaced `forward`. Submodules are not checked."""
    return any(GLOBAL_HOOKS) or any(getattr(module, hooks) for hooks in HOOKS) or "forward" in vars(module)


def _irregular_module(module: nn.Module) -> str | None:
    if any(getattr(module, hooks) for hooks in HOOKS):
        return "a forward hook"
    if parametrize.is_parametrized(module):
        return "a parametrization"
    for name, value in vars(module).items():
        if name in _STANDARD and isinstance(value, dict | set):
            continue
        if callable(getattr(type(module), name, None)):
            return f"a replaced method '{name}'"
        if not _is_constant(value):
            return f"an attribute '{name}' of type {type(value).__name__}"
    for name, tensor in _own_tensors(module):
        if type(tensor) not in TENSORS:
            return f"a tensor '{name}' of type {type(tensor).__name__}"
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            return f"a tensor '{name}' in {str(tensor.dtype).removeprefix('torch.')}"
    return None


def _is_constant(value: object) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(map(_is_constant, vars(value).values()))
    if isinstance(value, types.FunctionType):
        return value.__closure__ is None
    return isinstance(value, CONSTANT)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for values in (module._parameters, module._buffers):
        for name, value in values.items():
            if value is not None:
                yield name, value


class Watch:
    """Snapshot of a model without irregularities (see `irregularity`), to detect later changes.

    The training mode is ignored, because predictions are made in evaluation mode. These changes are not detected: C
    code that writes to a memory address that it was given earlier, changed globals that a forward method reads, and
    replaced operators of PyTorch other than `FUNCTIONS`.
    """

    def __init__(self, model: nn.Module):
        self._modules = list(model.modules())
        self._types = list(map(type, self._modules))
        self._attributes = _attributes(self._modules)
        self._own = [(vars(each), name) for each in self._modules for name in vars(each) if name not in _STANDARD]
        self._own_values = [attributes[name] for attributes, name in self._own]
        dicts = [getattr(module, name) for module in self._modules for name in CONTENTS]
        dicts += [fields for module in self._modules for value in vars(module).values() for fields in _fields(value)]
        hooks = [getattr(module, name) for module in self._modules for name in HOOKS]
        self._empty: list[Mapping[Any, object]] = [*GLOBAL_HOOKS, *hooks, *(each for each in dicts if not each)]
        self._dicts = [each for each in dicts if each]
        self._entries = _entries(self._dicts)
        kinds = dict.fromkeys(kind for each in self._types for kind in each.__mro__ if kind not in GENERAL)
        self._classes = [vars(kind) for kind in kinds]
        self._class_entries = _entries(self._classes)
        tensors = {id(tensor): tensor for module in self._modules for _, tensor in _own_tensors(module)}
        self._tensors = _WatchedTensors(list(tensors.values()))

    def changed(self) -> bool:
        """Returns whether anything that can affect the outputs of the model has changed since construction."""
        return any(self._empty) or not self._same_structure() or not self._tensors.are_same()

    def _same_structure(self) -> bool:
        same = (
            _same(_entries(self._dicts), self._entries)
            and _same(_entries(self._classes), self._class_entries)
            and all(map(is_, map(type, self._modules), self._types))
            and all(map(is_, _functions(), _FUNCTIONS))
        )
        return same and self._same_attributes()

    def _same_attributes(self) -> bool:
        """Returns whether all attributes of the modules, except `training`, are the same objects as before."""
        try:
            if list(map(vars, self._modules)) != self._attributes:
                now = _attributes(self._modules)
                pairs = zip(now, self._attributes, strict=True)
                if any({**new, "training": True} != {**old, "training": True} for new, old in pairs):
                    return False
                self._attributes = now
        except (RuntimeError, ValueError):  # comparing tensors or arrays returns no bool
            return False
        # An equal value may be another, mutable object, such as a tensor instead of a number.
        return all(map(is_, [attributes[name] for attributes, name in self._own], self._own_values))


class _WatchedTensors:
    """Tensors with their layouts, and the marks of their storages, or copies of the values of unmarked tensors."""

    def __init__(self, tensors: list[Tensor]):
        owners: dict[int, int] = {}
        for storage in _storages(tensors):
            owners[storage] = owners.get(storage, 0) + 1
        marks = [_mark(tensor, owners[tensor.untyped_storage()._cdata]) for tensor in tensors]
        self._tensors = tensors
        self._marked = [tensor for tensor, mark in zip(tensors, marks, strict=True) if mark is not None]
        self._storages = _storages(self._marked)
        self._marks = [mark for mark in marks if mark is not None]
        unmarked = [tensor for tensor, mark in zip(tensors, marks, strict=True) if mark is None]
        self._copies = [(tensor, _bits(tensor).clone()) for tensor in unmarked]
        self._layouts = _layouts(tensors)
        with _lock:
            for address in [address for address, (reference, _) in _marks.items() if reference.expired()]:
                del _marks[address]

    def are_same(self) -> bool:
        """Returns whether all tensors have the same layout, storage and values as before."""
        return (
            _layouts(self._tensors) == self._layouts
            and (not self._marked or self._marks_are_same())
            and all(torch.equal(_bits(tensor), values) for tensor, values in self._copies)
        )

    def _marks_are_same(self) -> bool:
        storages = _storages(self._marked)
        return (
            storages == self._storages
            and all(map(_is_marked, self._marked))
            # A later mark means that the storage was written to and then marked again by another `Watch`.
            and [_marks[storage][1] for storage in storages] == self._marks
        )


def _attributes(modules: Iterable[nn.Module]) -> list[dict[str, object]]:
    return [dict(vars(module)) for module in modules]


def _entries(dicts: Iterable[Mapping[Any, object]]) -> tuple[list[object], list[object]]:
    """Returns a list with the keys and a list with the values of all dicts."""
    return list(chain.from_iterable(dicts)), list(chain.from_iterable([each.values() for each in dicts]))


def _same(now: tuple[list[object], list[object]], before: tuple[list[object], list[object]]) -> bool:
    """Returns whether the keys are equal and the values are the same objects."""
    return now[0] == before[0] and all(map(is_, now[1], before[1]))


def _fields(value: object) -> Iterator[dict[str, object]]:
    """Yields the attributes of a dataclass, such as a model config, and of the dataclasses that it contains."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield vars(value)
        for each in vars(value).values():
            yield from _fields(each)


def _storages(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.untyped_storage()._cdata for tensor in tensors]


def _layouts(tensors: list[Tensor]) -> list[object]:
    """Returns shapes, strides, offsets and dtypes of all tensors, all shapes first. Lists are faster than tuples."""
    columns = (map(attrgetter("shape"), tensors), map(_STRIDE, tensors), map(_OFFSET, tensors))
    return [*chain.from_iterable(columns), *map(attrgetter("dtype"), tensors)]


_STRIDE, _OFFSET = torch.Tensor.stride, torch.Tensor.storage_offset


def _is_marked(tensor: Tensor) -> bool:
    return torch._C._is_cow_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def _bits(tensor: Tensor) -> Tensor:
    """Returns an integer view of a floating-point tensor, for comparison: as integers, NaN equals itself."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().view(integers[tensor.itemsize]) if tensor.is_floating_point() else tensor.detach()


def _mark(tensor: Tensor, owners: int) -> int | None:
    """Marks the storage of a tensor as copy-on-write and returns the number of the mark.

    Returns None if PyTorch cannot mark the storage, because it did not allocate the memory. Also returns None if the
    storage has more references than `owners`, because a NumPy array among them could write to the memory without
    removing the mark.
    """
    storage = tensor.untyped_storage()
    with _lock:
        try:
            if torch._C._storage_Use_Count(storage._cdata) > owners + 1:  # `storage` is one more reference
                return None
            known = _marks.get(storage._cdata)
            if known is not None and _is_marked(tensor):
                return known[1]
            torch._lazy_clone(tensor.detach())  # pyright: ignore[reportPrivateImportUsage]
            if not _is_marked(tensor):
                return None
        except (RuntimeError, AttributeError):  # AttributeError: torch versions without these functions
            return None
        _marks[storage._cdata] = StorageWeakRef(storage), next(_times)
        return _marks[storage._cdata][1]
