"""The scalars of a step, left on their device until they are logged or shown."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vitkit import distributed


class Metrics(Mapping[str, float]):
    """Scalars of one step by name, as floats; reading the first one reduces and copies all of them at once.

    `scalars` are means over this process's part of the batch: they are averaged over all processes, in one all-reduce,
    so all processes must read together. `equal` are the same in all processes. Until then nothing waits for the device.
    """

    def __init__(self, scalars: Mapping[str, Tensor], equal: Mapping[str, Tensor | float]):
        self.scalars = scalars
        self.equal = equal
        self.found: dict[str, float] | None = None

    def __getitem__(self, name: str) -> float:
        """The value of a scalar; KeyError for an unknown name."""
        if name not in self.scalars and name not in self.equal:
            raise KeyError(name)
        if self.found is None:
            self.found = self._read()
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        """The names, without reading a value."""
        return iter((*self.scalars, *self.equal))

    def __len__(self) -> int:
        """How many scalars there are."""
        return len(self.scalars) + len(self.equal)

    def _read(self) -> dict[str, float]:
        on_device = {name: value for name, value in self.equal.items() if isinstance(value, Tensor)}
        local = {name: value for name, value in self.equal.items() if not isinstance(value, Tensor)}
        packed = torch.cat([distributed.mean(_packed(self.scalars)), _packed(on_device)])
        names = (*self.scalars, *on_device)
        return {name: float(value) for name, value in zip(names, packed.tolist(), strict=True)} | local


def _packed(values: Mapping[str, Tensor]) -> Tensor:
    """Scalars as one vector, in float32 unless one is wider."""
    if not values:
        return torch.empty(0)
    dtype = torch.float32
    for value in values.values():
        dtype = torch.promote_types(dtype, value.dtype)
    return torch.stack([value.detach().to(dtype) for value in values.values()])
