"""Token merging: after each attention the most alike tokens become one (Bolya et al. 2023, "Token Merging: Your ViT
But Faster", section 3); no training.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Reduction = int | tuple[int, float] | list[int]


def schedule(reduction: Reduction, depth: int) -> list[int]:
    """How many tokens each of `depth` blocks merges away.

    A whole number is for every block; a pair (r, inflection) is linear from r (1 - inflection) to r (1 + inflection),
    -1 merging early and 1 late; a list is as it is, with zeros behind. Raises ValueError for a negative number, an
    inflection beyond -1 to 1, and a list that is longer than the model is deep.
    """
    if isinstance(reduction, tuple):
        number, inflection = reduction
        if not -1 <= inflection <= 1:
            raise ValueError(f"the inflection of token merging is {inflection}; it lies between -1 and 1")
        first = int(number * (1 - inflection))
        step = (2 * number - 2 * first) / max(depth - 1, 1)
        counts = [int(first + step * index) for index in range(depth)]
    else:
        counts = [reduction] * depth if isinstance(reduction, int) else [*reduction]
    if len(counts) > depth:
        raise ValueError(f"token merging is given for {len(counts)} blocks, but the model has {depth}")
    if min(counts, default=0) < 0:
        raise ValueError(f"token merging takes numbers of tokens, none below 0; given is {reduction}")
    return counts + [0] * (depth - len(counts))


@dataclass(frozen=True)
class Merge:
    """Which tokens become one: `target[b, i]` is where token i of n goes among the `count` that remain."""

    target: Int[Tensor, "b n"]
    count: int

    def tokens(self, x: Float[Tensor, "b n d"], size: Float[Tensor, "b n"]) -> Float[Tensor, "b m d"]:
        """The means of the tokens that become one, each weighted by how many patches it stands for already."""
        total = x.new_zeros(x.shape[0], self.count, x.shape[2], dtype=torch.float32)
        index = self.target[:, :, None].expand(-1, -1, x.shape[2])
        total.scatter_add_(1, index, x.float() * size[:, :, None])
        return (total / self.sizes(size)[:, :, None]).to(x.dtype)

    def sizes(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """How many patches each of the remaining tokens stands for."""
        return size.new_zeros(size.shape[0], self.count).scatter_add_(1, self.target, size)


def match(metric: Float[Tensor, "b n k"], reduction: int, num_special: int) -> Merge | None:
    """The bipartite soft matching of the paper's section 3.2; None where nothing is to be merged.

    Tokens are alike by the cosine of their metric (the mean of their keys over the heads). Those at even places each
    find the most alike at an odd place; the `reduction` best pairs become one, at most half of the patches. Special
    tokens, the first, stay. What remains are the special tokens, then those of even, then those of odd places.
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
    # A stable order, so that equal scores do not depend on the machine.
    order = best.argsort(dim=-1, descending=True, stable=True)
    gone = torch.zeros_like(best, dtype=torch.bool).scatter_(1, order[:, :reduction], True)
    return Merge(target=_renumbered(gone, partner, n, num_special), count=n - reduction)


def _renumbered(gone: Tensor, partner: Tensor, n: int, num_special: int) -> Int[Tensor, "b n"]:
    b, device = gone.shape[0], gone.device
    places = torch.arange(n, device=device)
    stays = torch.ones(b, n, dtype=torch.bool, device=device)
    stays[:, ::2] = ~gone
    # Special tokens first, then even places, then odd ones, each in their order.
    kind = torch.where(places < num_special, 0, 1 + places % 2)
    order = (kind * n + places).argsort()
    number = torch.empty(b, n, dtype=torch.long, device=device)
    number[:, order] = stays[:, order].cumsum(dim=1) - 1
    joined = number[:, 1::2].gather(1, partner)
    number[:, ::2] = torch.where(gone, joined, number[:, ::2])
    return number


class Merging:
    """Token merging through the blocks of one network: what each token stands for, kept for each thread apart.

    `merge` is called by every block between its attention and its MLP; `bias` is what the next attention adds for the
    sizes of its keys (proportional attention, equation 1), which models pre-trained by MAE alone do without.
    """

    def __init__(self, counts: Sequence[int], num_special: int, *, proportional: bool = True):
        self.counts = tuple(counts)
        self.num_special = num_special
        self.proportional = proportional
        self._state = threading.local()

    def begin(self) -> None:
        """Forgets the pictures before."""
        self._state.size = self._state.source = None

    def bias(self) -> Float[Tensor, "b 1 1 n"] | None:
        """The logarithm of every key's size, to be added to the logits."""
        size = self._state.size
        return None if size is None or not self.proportional else size.log()[:, None, None]

    def merge(self, block: int, x: Float[Tensor, "b n d"], keys: Float[Tensor, "b h n k"]) -> Float[Tensor, "b m d"]:
        """The tokens of that block after its merge."""
        found = match(keys.float().mean(dim=1), self.counts[block], self.num_special)
        if found is None:
            return x
        state = self._state
        size = x.new_ones(x.shape[:2], dtype=torch.float32) if state.size is None else state.size
        state.source = found.target if state.source is None else found.target.gather(1, state.source)
        state.size = found.sizes(size)
        return found.tokens(x, size)

    def unmerge(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Every token at its old place again, those that became one with the same values: a picture's grid is whole."""
        source = self._state.source
        return x if source is None else x.gather(1, source[:, :, None].expand(-1, -1, x.shape[2]))
