"""Token merging without training (ToMe): each block merges its most similar tokens after attention.

Bolya et al. 2023, "Token Merging: Your ViT But Faster", section 3.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Reduction = int | tuple[int, float] | list[int]


def schedule(reduction: Reduction, depth: int) -> list[int]:
    """Returns the number of tokens to merge in each of the `depth` blocks.

    An int applies to every block. A pair (r, inflection) is linear from r (1 - inflection) to r (1 + inflection), so
    that -1 merges early and 1 late. A list has one number per block; missing ones are zero. Raises ValueError for
    negative numbers, an inflection outside -1 to 1, and a list that is longer than `depth`.
    """
    if isinstance(reduction, tuple):
        number, inflection = reduction
        if not -1 <= inflection <= 1:
            raise ValueError(f"the inflection of token merging is {inflection}; it must be between -1 and 1")
        first = int(number * (1 - inflection))
        step = (2 * number - 2 * first) / max(depth - 1, 1)
        counts = [int(first + step * index) for index in range(depth)]
    else:
        counts = [reduction] * depth if isinstance(reduction, int) else [*reduction]
    if len(counts) > depth:
        raise ValueError(f"token merging has counts for {len(counts)} blocks, but the model has {depth} blocks")
    if min(counts, default=0) < 0:
        raise ValueError(f"the number of tokens to merge is {reduction}; it must be at least 0 in every block")
    return counts + [0] * (depth - len(counts))


@dataclass(frozen=True)
class Merge:
    """A merge of n tokens into `count` tokens. Token i of sample b becomes part of token `target[b, i]`."""

    target: Int[Tensor, "b n"]
    count: int

    def tokens(self, x: Float[Tensor, "b n d"], size: Float[Tensor, "b n"]) -> Float[Tensor, "b m d"]:
        """Returns the merged tokens: means of tokens, weighted by the number of patches that each represents."""
        total = x.new_zeros(x.shape[0], self.count, x.shape[2], dtype=torch.float32)
        index = self.target[:, :, None].expand(-1, -1, x.shape[2])
        total.scatter_add_(1, index, x.float() * size[:, :, None])
        return (total / self.sizes(size)[:, :, None]).to(x.dtype)

    def sizes(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """Returns the number of patches that each merged token represents."""
        return size.new_zeros(size.shape[0], self.count).scatter_add_(1, self.target, size)


def match(metric: Float[Tensor, "b n k"], reduction: int, num_special: int) -> Merge | None:
    """Matches similar tokens (bipartite soft matching). Returns None if there are no tokens to merge.

    The similarity of tokens is the cosine of their metric (the mean of their keys over the heads). Each token at an
    even position is paired with the most similar one at an odd position, and the `reduction` most similar pairs are
    merged, at most half of the patches. Special tokens, which come first, are never merged. The merged sequence has the
    special tokens, then tokens of even positions, then tokens of odd positions.
    """
    n = metric.shape[1]
    reduction = min(reduction, (n - num_special) // 2)
    if reduction <= 0:
        return None
    metric = metric.float()
    metric = metric / metric.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    even, odd = metric[:, ::2], metric[:, 1::2]
    scores = even @ odd.transpose(1, 2)
    special_even, special_odd = (num_special + 1) // 2, num_special // 2
    scores[:, :special_even] = -torch.inf
    scores[:, :, :special_odd] = -torch.inf
    best, partner = scores.max(dim=-1)
    # Stable, so that ties have the same order on every device.
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged = torch.zeros_like(best, dtype=torch.bool).scatter_(1, order[:, :reduction], True)
    return Merge(target=_targets(merged, partner, n, num_special), count=n - reduction)


def _targets(merged: Tensor, partner: Tensor, n: int, num_special: int) -> Int[Tensor, "b n"]:
    b, device = merged.shape[0], merged.device
    positions = torch.arange(n, device=device)
    remains = torch.ones(b, n, dtype=torch.bool, device=device)
    remains[:, ::2] = ~merged
    # Special tokens first, then even positions, then odd ones.
    kind = torch.where(positions < num_special, 0, 1 + positions % 2)
    order = (kind * n + positions).argsort()
    index = torch.empty(b, n, dtype=torch.long, device=device)
    index[:, order] = remains[:, order].cumsum(dim=1) - 1
    index[:, ::2] = torch.where(merged, index[:, 1::2].gather(1, partner), index[:, ::2])
    return index


class Merging:
    """Token merging in the blocks of one model. The token sizes of the current batch are stored per thread.

    Every block calls `merge` between attention and MLP. `bias` is added to the next attention logits (proportional
    attention, equation 1); models pre-trained with MAE and not fine-tuned are better without it.
    """

    def __init__(self, counts: Sequence[int], num_special: int, *, proportional: bool = True):
        self.counts = tuple(counts)
        self.num_special = num_special
        self.proportional = proportional
        self._state = threading.local()

    def begin(self) -> None:
        """Resets the token sizes before a new batch."""
        self._state.size = self._state.source = None

    def bias(self) -> Float[Tensor, "b 1 1 n"] | None:
        """Returns the logarithm of the token sizes, to add to the attention logits, or None if no bias is needed."""
        size = self._state.size
        return None if size is None or not self.proportional else size.log()[:, None, None]

    def merge(self, block: int, x: Float[Tensor, "b n d"], keys: Float[Tensor, "b h n k"]) -> Float[Tensor, "b m d"]:
        """Returns the tokens of a block after merging the most similar tokens."""
        merge = match(keys.float().mean(dim=1), self.counts[block], self.num_special)
        if merge is None:
            return x
        state = self._state
        size = x.new_ones(x.shape[:2], dtype=torch.float32) if state.size is None else state.size
        state.source = merge.target if state.source is None else merge.target.gather(1, state.source)
        state.size = merge.sizes(size)
        return merge.tokens(x, size)

    def unmerge(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Repeats merged tokens so that there is one token for each original position."""
        source = self._state.source
        return x if source is None else x.gather(1, source[:, :, None].expand(-1, -1, x.shape[2]))
