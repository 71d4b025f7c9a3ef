"""What a block is told of the grid that its tokens lie on."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """What one block is told of where its tokens lie; None is nothing.

    `added` goes onto the tokens before the block (a position table of its own, special rows first); `bias`, `rotation`
    and `relative` are those of `Attention`.
    """

    added: Float[Tensor, "n d"] | None = None
    bias: Float[Tensor, "..."] | None = None
    rotation: Float[Tensor, "2 p k"] | None = None
    relative: Float[Tensor, "offsets k"] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The keywords that the block takes."""
        given = {"bias": self.bias, "rotation": self.rotation, "relative": self.relative}
        return {name: tensor for name, tensor in given.items() if tensor is not None}
