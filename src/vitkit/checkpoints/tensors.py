"""`Tensors`: what a weights file holds, as names, shapes and types that are known before any value is read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, dtype

from vitkit.checkpoints.errors import CheckpointError

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
