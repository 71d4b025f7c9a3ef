"""Pictures of several sizes in one sequence without padding (NaViT, Dehghani et al. 2023, section 2.1).

What works token by token (norms, dense layers) sees one long matrix; attention alone must keep pictures apart. Pictures
of one grid stand next to each other, so that the attention of each such group is a batch of its own, cut out of the
sequence without a copy. `benchmarks/` holds the measurements that chose this over a block mask and nested tensors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers.features import Features
from vitkit.layers.position import Place


@dataclass(frozen=True)
class Packed:
    """Tokens (n, d) of groups of pictures; each group has `shapes` (pictures, tokens of one) and one grid.

    Within a picture tokens are in the order of `Features`: `num_special` special ones, then the patches. `earlier` are
    the pictures' class tokens of earlier blocks, as there.
    """

    tokens: Float[Tensor, "n d"]
    shapes: tuple[tuple[int, int], ...]
    grids: tuple[tuple[int, int], ...]
    num_special: int
    earlier: Float[Tensor, "pictures blocks d"] | None = None

    @classmethod
    def join(cls, groups: Sequence[Features]) -> "Packed":
        """The groups one after the other; ValueError where there is none or special tokens differ in number."""
        specials = {group.num_special for group in groups}
        if len(specials) != 1:
            raise ValueError(f"groups to pack need one number of special tokens, these have {sorted(specials)}")
        return cls(
            tokens=torch.cat([group.tokens.flatten(0, 1) for group in groups]),
            shapes=tuple((group.tokens.shape[0], group.tokens.shape[1]) for group in groups),
            grids=tuple(group.grid for group in groups),
            num_special=specials.pop(),
        )

    def split(self) -> list[Features]:
        """The groups, each as the `Features` of a batch."""
        parts = self.tokens.split([count * length for count, length in self.shapes])
        counts = [count for count, _ in self.shapes]
        earlier = [None] * len(counts) if self.earlier is None else self.earlier.split(counts)
        return [
            Features(tokens=part.unflatten(0, shape), grid=grid, num_special=self.num_special, earlier=before)
            for part, shape, grid, before in zip(parts, self.shapes, self.grids, earlier, strict=True)
        ]

    def starts(self) -> Int[Tensor, " pictures"]:
        """Where the tokens of each picture begin."""
        lengths = torch.tensor([length for count, length in self.shapes for _ in range(count)])
        return (lengths.cumsum(0) - lengths).to(self.tokens.device)

    def with_tokens(self, tokens: Float[Tensor, "n d"]) -> "Packed":
        """The same pictures with other tokens."""
        return replace(self, tokens=tokens)


def run_packed(
    blocks: Iterable[nn.Module],
    packed: Packed,
    places: Sequence[Iterable[Place]],
    firsts: list[Tensor] | None = None,
) -> Packed:
    """The packed tokens through all blocks; for each group the places of all blocks, as `run_blocks` takes them.

    Equal to `run_blocks` for each group by itself, `firsts` too. The blocks are `Block`s.
    """
    tokens = packed.tokens
    starts = None if firsts is None else packed.starts()
    for block, *told in zip(blocks, *places, strict=True):
        if any(place.added is not None for place in told):
            parts = packed.with_tokens(tokens).split()
            tokens = Packed.join(
                [
                    part if place.added is None else part.with_tokens(part.tokens + place.added)
                    for part, place in zip(parts, told, strict=True)
                ]
            ).tokens
        tokens = block.packed(tokens, packed.shapes, told)  # type: ignore[operator]
        if firsts is not None:
            firsts.append(tokens[starts])
    return packed.with_tokens(tokens)
