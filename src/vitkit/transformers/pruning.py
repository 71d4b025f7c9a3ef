"""Removal of attention heads from the projections of a layer."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn


class Projections(NamedTuple):
    """The projections of an attention layer. Only `nn.Linear` projections can be pruned."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module


def prune(projections: Projections, heads: Iterable[int], pruned: set[int], total: int, head_dim: int) -> list[int]:
    """Removes heads, given by their original indices, and returns the original indices of the remaining heads.

    `pruned` contains the heads that were removed before; the given heads are added to it. `total` is the original
    number of heads, and `head_dim` is the width of a head. Raises ValueError for an invalid index, and if no head would
    remain. Raises TypeError if a projection has been replaced by another module.
    """
    new = set(heads) - pruned
    if invalid := sorted(new - set(range(total))):
        raise ValueError(f"cannot prune heads {invalid}: the layer has heads 0 to {total - 1}")
    if len(pruned | new) == total:
        raise ValueError(f"cannot prune all {total} heads of a layer")
    if wrapped := sorted({type(each).__name__ for each in projections if not isinstance(each, nn.Linear)}):
        raise TypeError(
            f"cannot prune heads of a layer whose projections are {', '.join(wrapped)}; expected nn.Linear; prune "
            "before you replace modules, or merge the adapters first"
        )
    present = [head for head in range(total) if head not in pruned]
    retained = torch.tensor([index for index, head in enumerate(present) if head not in new])
    rows = rearrange(retained[:, None] * head_dim + torch.arange(head_dim), "h k -> (h k)")
    for projection, axis in zip(projections, (0, 0, 0, 1), strict=True):
        assert isinstance(projection, nn.Linear)
        _select(projection, rows, axis)
    pruned |= new
    return [head for head in present if head not in new]


def _select(linear: nn.Linear, index: Tensor, axis: int) -> None:
    """Reduces a linear layer in place to the selected output (axis 0) or input (axis 1) features."""
    index = index.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(axis, index), linear.weight.requires_grad)
    if axis == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[index], linear.bias.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
