"""Packing of images of several sizes into one sequence (NaViT, Dehghani et al. 2023, section 2.1).

Layers that work on each token (norms, linear layers) get one long matrix; attention runs within each image. Images with
the same grid are adjacent, so that a view of the sequence is a batch for attention. `benchmarks/packing.py` compares
this with a block mask and with nested tensors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers.features import Features
from vitkit.layers.position import PositionInput


@dataclass(frozen=True)
class Packed:
    """Packed tokens (n, d) of several groups of images. The images of a group have the same size.

    `shapes` are the (images, tokens per image) of each group, `grids` its (rows, columns). The tokens of an image are
    in the order of `Features`: `num_special` special tokens, then the patches. `earlier` has the meaning it has there.
    """

    tokens: Float[Tensor, "n d"]
    shapes: tuple[tuple[int, int], ...]
    grids: tuple[tuple[int, int], ...]
    num_special: int
    earlier: Float[Tensor, "images blocks d"] | None = None

    @classmethod
    def join(cls, groups: Sequence[Features]) -> "Packed":
        """Packs groups of images. Raises ValueError if there are none, or if their numbers of special tokens differ."""
        specials = {group.num_special for group in groups}
        if len(specials) != 1:
            raise ValueError(f"groups to pack must have the same number of special tokens, not {sorted(specials)}")
        return cls(
            tokens=torch.cat([group.tokens.flatten(0, 1) for group in groups]),
            shapes=tuple((group.tokens.shape[0], group.tokens.shape[1]) for group in groups),
            grids=tuple(group.grid for group in groups),
            num_special=specials.pop(),
        )

    def split(self) -> list[Features]:
        """Returns the groups of images, each as `Features`."""
        parts = self.tokens.split([count * length for count, length in self.shapes])
        counts = [count for count, _ in self.shapes]
        earlier = [None] * len(counts) if self.earlier is None else self.earlier.split(counts)
        return [
            Features(tokens=part.unflatten(0, shape), grid=grid, num_special=self.num_special, earlier=before)
            for part, shape, grid, before in zip(parts, self.shapes, self.grids, earlier, strict=True)
        ]

    def starts(self) -> Int[Tensor, " images"]:
        """Returns the index of the first token of each image."""
        lengths = torch.tensor([length for count, length in self.shapes for _ in range(count)])
        return (lengths.cumsum(0) - lengths).to(self.tokens.device)

    def with_tokens(self, tokens: Float[Tensor, "n d"]) -> "Packed":
        """Returns a copy of the packed sequence with other tokens."""
        return replace(self, tokens=tokens)


def run_packed(
    blocks: Iterable[nn.Module],
    packed: Packed,
    positions: Sequence[Iterable[PositionInput]],
    class_tokens: list[Tensor] | None = None,
) -> Packed:
    """Runs packed tokens through all blocks. The results equal those of `run_blocks` for each group.

    `positions` has the positional inputs of all blocks for each group. `class_tokens` is as in `run_blocks`. The
    blocks are `Block`s.
    """
    tokens = packed.tokens
    starts = None if class_tokens is None else packed.starts()
    for block, *inputs in zip(blocks, *positions, strict=True):
        if any(position.added is not None for position in inputs):
            parts = packed.with_tokens(tokens).split()
            tokens = Packed.join(
                [
                    part if position.added is None else part.with_tokens(part.tokens + position.added)
                    for part, position in zip(parts, inputs, strict=True)
                ]
            ).tokens
        tokens = block.packed(tokens, packed.shapes, inputs)  # type: ignore[operator]
        if class_tokens is not None:
            class_tokens.append(tokens[starts])
    return packed.with_tokens(tokens)
