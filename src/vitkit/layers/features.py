"""Defines `Features`, the output tokens of a model and the input of heads, objectives and evaluators."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Output of a model: the tokens of a batch of images, and the numbers of rows and columns of patches.

    `tokens` is (b, num_special + rows * columns, d): first the special tokens (class, distillation, registers), then
    the patches in row-major order. A convolutional backbone has no special tokens. `earlier` holds class tokens of
    blocks before the last one, after the final norm and in the order of the blocks, for heads that read several.
    `taps` are the outputs of the blocks that `Backbone.features` was asked for, as tokens (b, n, d) with the special
    tokens, or as maps (b, d, rows, columns).
    """

    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, int]
    num_special: int = 0
    earlier: Float[Tensor, "b blocks d"] | None = None
    taps: tuple[Tensor, ...] = ()

    @property
    def class_token(self) -> Float[Tensor, "b d"]:
        """The first special token. Raises ValueError if there are no special tokens."""
        if self.num_special == 0:
            raise ValueError("the features have no class token; use the patch tokens instead")
        return self.tokens[:, 0]

    @property
    def special(self) -> Float[Tensor, "b s d"]:
        """The special tokens, or an empty tensor if there are none."""
        return self.tokens[:, : self.num_special]

    @property
    def patches(self) -> Float[Tensor, "b p d"]:
        """The patch tokens in row-major order."""
        return self.tokens[:, self.num_special :]

    @property
    def map(self) -> Float[Tensor, "b d rows columns"]:
        """The patch tokens as a feature map of shape (b, d, rows, columns)."""
        return rearrange(self.patches, "b (r c) d -> b d r c", r=self.grid[0], c=self.grid[1])

    def with_tokens(self, tokens: Float[Tensor, "b n d"]) -> "Features":
        """Returns a copy of the features with other tokens."""
        return replace(self, tokens=tokens)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """Returns features in which every tensor is replaced with `change(tensor)`, such as a slice of the batch."""
        changed = {name: change(getattr(self, name)) for name in self._tensors()}
        return replace(self, **changed, taps=tuple(change(tap) for tap in self.taps))

    @staticmethod
    def join(parts: Sequence["Features"]) -> "Features":
        """Concatenates the features of several batches, whose images must have the same size."""
        first = parts[0]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in first._tensors()}
        taps = zip(*(part.taps for part in parts), strict=True)
        return replace(first, **joined, taps=tuple(torch.cat(tap) for tap in taps))

    def _tensors(self) -> list[str]:
        """Returns the names of the fields that are tensors. Their first axis is the batch."""
        return [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]


def join_tokens(
    special: Sequence[Float[Tensor, "1 _ d"] | None],
    patches: Float[Tensor, "b d r c"],
    positions: Float[Tensor, "1 rows d"] | None,
) -> Float[Tensor, "b n d"]:
    """Concatenates special tokens and patches (in row-major order), and adds position embeddings.

    If the table has rows for some of the special tokens, they come first; the other special tokens (registers) get no
    position.
    """
    tokens = rearrange(patches, "b d r c -> b (r c) d")
    first = torch.cat([token for token in special if token is not None] or [tokens[:1, :0]], dim=1)
    if positions is not None:
        num_rows = positions.shape[1] - tokens.shape[1]
        first = torch.cat([first[:, :num_rows] + positions[:, :num_rows], first[:, num_rows:]], dim=1)
        tokens = tokens + positions[:, num_rows:]
    return torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1)
