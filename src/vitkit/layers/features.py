"""`Features`: what every backbone returns, and all that heads, objectives, evaluators and explanations read."""

from dataclasses import dataclass, replace

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Tokens with the shape of the picture they came from.

    `tokens` is (b, num_special + rows * columns, d): first the special tokens (class, distillation, registers), then
    the patches in row-major order. A convolutional backbone has no special tokens.
    """

    tokens: Float[Tensor, "b n d"]
    grid: tuple[int, int]
    num_special: int = 0

    @property
    def class_token(self) -> Float[Tensor, "b d"]:
        """The first special token; ValueError where the backbone has none."""
        if self.num_special == 0:
            raise ValueError("these features have no class token: pool the patches instead")
        return self.tokens[:, 0]

    @property
    def special(self) -> Float[Tensor, "b s d"]:
        """The special tokens, possibly none."""
        return self.tokens[:, : self.num_special]

    @property
    def patches(self) -> Float[Tensor, "b p d"]:
        """The patch tokens in row-major order."""
        return self.tokens[:, self.num_special :]

    @property
    def map(self) -> Float[Tensor, "b d rows columns"]:
        """The patch tokens laid out as a picture."""
        return rearrange(self.patches, "b (r c) d -> b d r c", r=self.grid[0], c=self.grid[1])

    def with_tokens(self, tokens: Float[Tensor, "b n d"]) -> "Features":
        """The same picture with other tokens."""
        return replace(self, tokens=tokens)
