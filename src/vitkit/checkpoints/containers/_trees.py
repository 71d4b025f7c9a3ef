"""Flattens the nested dicts and lists of a pickle to tensors with dotted names."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vitkit.checkpoints.checkpoint import CheckpointError
from vitkit.checkpoints.containers._pickle import Object
from vitkit.checkpoints.containers._storages import StoredTensor

MAX_DEPTH = 16
MAX_NAME = 300
MAX_TENSORS = 20_000
# A dict that is in the file once can be referred to many times, so that a few bytes name millions of tensors.
MAX_VALUES = 200_000


@dataclass
class Tree:
    """Tensors by dotted name, the names of the dicts that contain tensors, and the classes of pickled modules."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    roots: dict[str, None] = field(default_factory=dict)
    modules: dict[str, None] = field(default_factory=dict)


def is_module(value: Any) -> bool:
    """Returns whether a value is a pickled `nn.Module`."""
    if not isinstance(value, Object) or not isinstance(value.state, Object):
        return False
    return {"_parameters", "_modules"} <= {key for key, _ in value.state.pairs if isinstance(key, str)}


def is_script(value: Any) -> bool:
    """Returns whether a value is a module of a TorchScript archive, whose attributes hold its tensors."""
    return isinstance(value, Object) and value.name.startswith("__torch__.") and isinstance(value.state, Object)


def flatten(value: Any, *, inside_modules: bool) -> Tree:
    """Returns the tensors in nested dicts and lists, named by their keys joined with dots. Ignores other values.

    With `inside_modules`, pickled modules are dicts of their parameters, buffers and submodules.
    """
    tree = Tree()
    waiting: list[tuple[str, str, int, Any]] = [("", "", 0, value)]
    visited = 0
    while waiting:
        prefix, root, depth, node = waiting.pop()
        below: list[tuple[str, str, int, Any]] = []
        for key, item in _items(node, tree, inside_modules=inside_modules):
            visited += 1
            if visited > MAX_VALUES:
                raise CheckpointError(
                    f"the file has more than {MAX_VALUES:,} values in dicts; save only the state_dict"
                )
            name = f"{prefix}{key}"
            if len(name) > MAX_NAME:
                continue
            if isinstance(item, StoredTensor):
                if len(tree.tensors) == MAX_TENSORS:
                    raise CheckpointError(f"the file has more than {MAX_TENSORS:,} tensors; save only the state_dict")
                tree.tensors[name] = item
                tree.roots[root] = None
            elif depth < MAX_DEPTH:
                # The modules of a TorchScript archive are one state dict.
                below_root = root if is_script(node) else f"{name}."
                below.append((f"{name}.", below_root, depth + 1, item))
        waiting.extend(reversed(below))
    return tree


def _items(node: Any, tree: Tree, *, inside_modules: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list | tuple):
        yield from ((str(index), item) for index, item in enumerate(node))
    elif is_module(node):
        tree.modules[node.name] = None
        if inside_modules:
            yield from _of_module(node)
    elif isinstance(node, Object):
        node = node.state if is_script(node) else node
        for key, item in node.pairs:
            if isinstance(key, str) or (type(key) is int and abs(key) < 10**18):
                yield str(key), item


def _of_module(module: Object) -> Iterator[tuple[str, Any]]:
    for key, part in module.state.pairs:
        if key in ("_parameters", "_buffers", "_modules") and isinstance(part, Object):
            yield from ((name, item) for name, item in part.pairs if isinstance(name, str))
