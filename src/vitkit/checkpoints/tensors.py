"""`Tensors`: what a weights file holds, as names, shapes and types that are known before any value is read."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, dtype

from vitkit.checkpoints.checkpoint import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Info:
    """What a header says of one tensor."""

    shape: Shape
    dtype: dtype


@dataclass(frozen=True)
class Tensors:
    """Named tensors on disk; `read` fetches one by its name, and may fail with CheckpointError where the data lies."""

    infos: Mapping[str, Info]
    read: Callable[[str], Tensor]

    def under(self, names: Mapping[str, str]) -> "Tensors":
        """The same tensors under other names: `names` maps new to old; those not named are left out."""
        return Tensors({new: self.infos[old] for new, old in names.items()}, lambda name: self.read(names[name]))

    def renamed(self, rename: Callable[[str], str]) -> "Tensors":
        """Every tensor under the name `rename` gives; CheckpointError where two get the same."""
        names: dict[str, str] = {}
        for old in self.infos:
            new = rename(old)
            if new in names:
                raise CheckpointError(f"{names[new]} and {old} are two names of one tensor")
            names[new] = old
        return self.under(names)

    def without(self, names: Iterable[str]) -> "Tensors":
        """All but those."""
        left_out = set(names)
        return self.under({name: name for name in self.infos if name not in left_out})


def fused(tensors: Tensors, first: str, second: str, to: str) -> Tensors:
    """Every tensor whose name matches `first`, with its partner `second` below it, under the name `to`.

    The names are a pattern and two replacements of it. A tensor without a partner stays as it is.
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


def thirds(tensors: Tensors, pattern: str, first: str, last: str) -> Tensors:
    """Every tensor whose name matches, as its first and its last third; the middle one is left out."""
    parts: dict[str, tuple[str, int]] = {}
    for name, info in tensors.infos.items():
        match = re.fullmatch(pattern, name)
        if match and len(info.shape) == 1 and info.shape[0] % 3 == 0:
            parts |= {match.expand(first): (name, 0), match.expand(last): (name, 2)}
    used = {name for name, _ in parts.values()}
    infos = {name: info for name, info in tensors.infos.items() if name not in used}
    for name, (whole, _) in parts.items():
        infos[name] = Info((tensors.infos[whole].shape[0] // 3,), tensors.infos[whole].dtype)

    def read(name: str) -> Tensor:
        if name in parts:
            return tensors.read(parts[name][0]).chunk(3)[parts[name][1]]
        return tensors.read(name)

    return Tensors(infos, read)
