"""`Tensors`: the tensors of a weights file. Names, shapes and dtypes are available without reading the values."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, dtype

from vitkit.checkpoints.checkpoint import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Info:
    """The shape and dtype of a tensor in a file. `problem` is the reason why it cannot be read, or "" if it can."""

    shape: Shape
    dtype: dtype
    problem: str = ""


@dataclass(frozen=True)
class Tensors:
    """Named tensors in a file. `read(name)` loads a tensor and raises CheckpointError if its data is invalid.

    `roots` are the names, up to their last dot, of the dicts in the file that have tensors: one of them is a state
    dict, and the others are different parts of a training run. `notes` tell what the file has besides tensors.
    """

    infos: Mapping[str, Info]
    read: Callable[[str], Tensor]
    roots: tuple[str, ...] = ("",)
    notes: tuple[str, ...] = ()

    def select(self, names: Mapping[str, str]) -> "Tensors":
        """Returns selected tensors under new names. `names` maps each new name to the old name."""
        return Tensors({new: self.infos[old] for new, old in names.items()}, lambda name: self.read(names[name]))

    def renamed(self, rename: Callable[[str], str]) -> "Tensors":
        """Returns the tensors with the names `rename(name)`. Raises CheckpointError if two names become equal."""
        names: dict[str, str] = {}
        for old in self.infos:
            new = rename(old)
            if new in names:
                raise CheckpointError(f"{names[new]} and {old} both map to the same tensor; keep only one of them")
            names[new] = old
        return self.select(names)

    def without(self, names: Iterable[str]) -> "Tensors":
        """Returns the tensors except those with these names."""
        left_out = set(names)
        return self.select({name: name for name in self.infos if name not in left_out})


def fuse_pairs(tensors: Tensors, first: str, second: str, to: str) -> Tensors:
    """Concatenates pairs of tensors, such as the gate and value weights of SwiGLU, along the first axis.

    `first` is a pattern of names; `second` and `to` are replacements that give the name of the second tensor and of
    the result. Tensors without a second one are not changed.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for name in tensors.infos:
        match = re.fullmatch(first, name)
        if match and match.expand(second) in tensors.infos:
            pairs[match.expand(to)] = (name, match.expand(second))
    used = {name for pair in pairs.values() for name in pair}
    infos = {name: info for name, info in tensors.infos.items() if name not in used}
    for name, parts in pairs.items():
        above, below = (tensors.infos[part] for part in parts)
        if above.shape[1:] == below.shape[1:] and above.shape and below.shape:
            infos[name] = Info((above.shape[0] + below.shape[0], *above.shape[1:]), above.dtype)

    def read(name: str) -> Tensor:
        if name in pairs:
            return torch.cat([tensors.read(part) for part in pairs[name]])
        return tensors.read(name)

    return Tensors(infos, read)


def split_qkv_bias(tensors: Tensors, pattern: str, query: str, value: str) -> Tensors:
    """Splits fused qkv biases whose names match `pattern` into query and value biases, and removes the key bias."""
    parts: dict[str, tuple[str, int]] = {}
    for name, info in tensors.infos.items():
        match = re.fullmatch(pattern, name)
        if match and len(info.shape) == 1 and info.shape[0] % 3 == 0:
            parts |= {match.expand(query): (name, 0), match.expand(value): (name, 2)}
    used = {name for name, _ in parts.values()}
    infos = {name: info for name, info in tensors.infos.items() if name not in used}
    for name, (qkv, _) in parts.items():
        infos[name] = Info((tensors.infos[qkv].shape[0] // 3,), tensors.infos[qkv].dtype)

    def read(name: str) -> Tensor:
        if name in parts:
            return tensors.read(parts[name][0]).chunk(3)[parts[name][1]]
        return tensors.read(name)

    return Tensors(infos, read)


def split_rows(tensors: Tensors, pattern: str, parts: Mapping[str, tuple[int, int]], count: int) -> Tensors:
    """Splits tensors whose names match `pattern` into groups of rows.

    The first axis has `count` groups of equal size. `parts` maps the prefix of each new name to the range (first, end)
    of its groups. A new name is the prefix followed by the first group of the regular expression `pattern`.
    """
    origin: dict[str, tuple[str, slice]] = {}
    infos = dict(tensors.infos)
    for name, info in tensors.infos.items():
        match = re.fullmatch(pattern, name)
        if match and info.shape and info.shape[0] % count == 0:
            rows = info.shape[0] // count
            del infos[name]
            for prefix, (first, end) in parts.items():
                new = prefix + match[1]
                origin[new] = (name, slice(first * rows, end * rows))
                infos[new] = Info(((end - first) * rows, *info.shape[1:]), info.dtype, info.problem)

    def read(name: str) -> Tensor:
        if name not in origin:
            return tensors.read(name)
        old, rows = origin[name]
        return tensors.read(old)[rows]

    return Tensors(infos, read)
