"""Scalar metrics of a training step, copied from the device only when needed."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vitkit import distributed


class Metrics(Mapping[str, float]):
    """Metrics of one step by name, as floats. They are reduced and copied to the CPU at the first access.

    `scalars` are means over this process's part of the batch; one all-reduce averages them over all processes, so all
    processes must read at the same step. `equal` are metrics with the same value in all processes. The device is not
    synchronized before the first read.
    """

    def __init__(self, scalars: Mapping[str, Tensor], equal: Mapping[str, Tensor | float]):
        self.scalars = scalars
        self.equal = equal
        self.values_read: dict[str, float] | None = None

    def __getitem__(self, name: str) -> float:
        """Returns the value of a metric. Raises KeyError if the name is unknown."""
        if name not in self.scalars and name not in self.equal:
            raise KeyError(name)
        if self.values_read is None:
            self.values_read = self._read()
        return self.values_read[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names without copying values from the device."""
        return iter((*self.scalars, *self.equal))

    def __len__(self) -> int:
        """Returns the number of metrics."""
        return len(self.scalars) + len(self.equal)

    def _read(self) -> dict[str, float]:
        on_device = {name: value for name, value in self.equal.items() if isinstance(value, Tensor)}
        local = {name: value for name, value in self.equal.items() if not isinstance(value, Tensor)}
        packed = torch.cat([distributed.mean(_packed(self.scalars)), _packed(on_device)])
        names = (*self.scalars, *on_device)
        return {name: float(value) for name, value in zip(names, packed.tolist(), strict=True)} | local


def _packed(values: Mapping[str, Tensor]) -> Tensor:
    """Stacks scalars into a vector in float32, or in a wider dtype if one of them has a wider dtype."""
    if not values:
        return torch.empty(0)
    dtype = torch.float32
    for value in values.values():
        dtype = torch.promote_types(dtype, value.dtype)
    return torch.stack([value.detach().to(dtype) for value in values.values()])
