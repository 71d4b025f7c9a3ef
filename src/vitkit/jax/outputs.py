"""`Features` of the Flax twin, and model outputs with the interface of transformers, as JAX pytrees."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

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


class Output:
    """Named results: `output.logits`, `output["logits"]`, `output[0]` are the same; fields left None do not count."""

    def keys(self) -> tuple[str, ...]:
        """The names that have a value, in order."""
        names = (field.name for field in fields(self))  # type: ignore[arg-type]
        return tuple(name for name in names if getattr(self, name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The values, in order."""
        return self.to_tuple()

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names with values, in order."""
        return tuple(zip(self.keys(), self.to_tuple(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """The values, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: int | slice | str) -> Any:
        """By name, or by place among what there is."""
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"no '{key}' here; there is {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: str) -> bool:
        """Whether there is a value of that name."""
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        """The names, as a dict."""
        return iter(self.keys())

    def __len__(self) -> int:
        """How many values there are."""
        return len(self.keys())


@struct.dataclass
class FlaxBaseModelOutputWithPooling(Output):
    """Tokens after the final norm, the pooled class token, every hidden state before that norm, every attention."""

    last_hidden_state: Float[Array, "b n d"] | None = None
    pooler_output: Float[Array, "b d"] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@struct.dataclass
class FlaxSequenceClassifierOutput(Output):
    """Logits, every hidden state, every attention."""

    logits: Float[Array, "b classes"] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
