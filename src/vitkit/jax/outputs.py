"""`Features` and model outputs with the API of transformers, registered as JAX pytrees."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from einops import rearrange
from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class Features:
    """The output of `ViT.features`, with tokens of shape (b, num_special + rows * columns, d).

    Special tokens come first. Corresponds to `vitkit.layers.Features`; `grid` and `num_special` are static under `jit`.
    """

    tokens: Float[Array, "b n d"]
    grid: tuple[int, int] = struct.field(pytree_node=False)
    num_special: int = struct.field(pytree_node=False, default=0)

    @property
    def class_token(self) -> Float[Array, "b d"]:
        """The class token, which is the first special token. Raises ValueError if there is none."""
        if self.num_special == 0:
            raise ValueError("the model has no class token; pool the patches instead")
        return self.tokens[:, 0]

    @property
    def special(self) -> Float[Array, "b s d"]:
        """The special tokens."""
        return self.tokens[:, : self.num_special]

    @property
    def patches(self) -> Float[Array, "b p d"]:
        """The patch tokens in row-major order."""
        return self.tokens[:, self.num_special :]

    @property
    def map(self) -> Float[Array, "b rows columns d"]:
        """The patch tokens as a feature map (b, rows, columns, d)."""
        return rearrange(self.patches, "b (r c) d -> b r c d", r=self.grid[0], c=self.grid[1])


class Output:
    """Base class of model outputs. Fields are accessed by attribute, key or position."""

    def keys(self) -> tuple[str, ...]:
        """Returns the names of the fields that are not None."""
        names = (field.name for field in fields(self))  # type: ignore[arg-type]
        return tuple(name for name in names if getattr(self, name) is not None)

    def values(self) -> tuple[object, ...]:
        """Returns the values of the fields that are not None."""
        return self.to_tuple()

    def items(self) -> tuple[tuple[str, object], ...]:
        """Returns pairs of names and values of the fields that are not None."""
        return tuple(zip(self.keys(), self.to_tuple(), strict=True))

    def to_tuple(self) -> tuple[object, ...]:
        """Returns the values of the fields that are not None."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: int | slice | str) -> Any:
        """Returns a value by name, or by position among the fields that are not None."""
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"no field '{key}'; the fields are {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: str) -> bool:
        """Returns whether the field exists and is not None."""
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names of the fields that are not None."""
        return iter(self.keys())

    def __len__(self) -> int:
        """Returns the number of fields that are not None."""
        return len(self.keys())


@struct.dataclass
class FlaxBaseModelOutputWithPooling(Output):
    """Model output: final tokens, pooled class token, hidden states and attention weights."""

    last_hidden_state: Float[Array, "b n d"] | None = None
    pooler_output: Float[Array, "b d"] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None


@struct.dataclass
class FlaxSequenceClassifierOutput(Output):
    """Model output: logits, hidden states and attention weights."""

    logits: Float[Array, "b classes"] | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
