"""`Features` of the twin: tokens with the shape of the picture they came from, as a JAX pytree."""

from einops import rearrange
from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class Features:
    """What `ViT.features` returns: `tokens` (b, num_special + rows * columns, d), special tokens first.

    The twin of `vitkit.layers.Features`; the grid and the count are static under `jit`.
    """

    tokens: Float[Array, "b n d"]
    grid: tuple[int, int] = struct.field(pytree_node=False)
    num_special: int = struct.field(pytree_node=False, default=0)

    @property
    def class_token(self) -> Float[Array, "b d"]:
        """The first special token; ValueError where the model has none."""
        if self.num_special == 0:
            raise ValueError("these features have no class token: pool the patches instead")
        return self.tokens[:, 0]

    @property
    def special(self) -> Float[Array, "b s d"]:
        """The special tokens, possibly none."""
        return self.tokens[:, : self.num_special]

    @property
    def patches(self) -> Float[Array, "b p d"]:
        """The patch tokens in row-major order."""
        return self.tokens[:, self.num_special :]

    @property
    def map(self) -> Float[Array, "b rows columns d"]:
        """The patch tokens laid out as a picture, channels last."""
        return rearrange(self.patches, "b (r c) d -> b r c d", r=self.grid[0], c=self.grid[1])
