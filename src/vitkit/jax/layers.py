"""The layers of the twin, named as in the original tree; letters in shapes as in `vitkit.layers`."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vitkit.layers.activations import CORE

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    name: partial(getattr(nn, each.flax[0]), **each.flax[1]) for name, each in CORE.items() if each.flax is not None
}

xavier = nn.initializers.xavier_uniform()


def layer_norm(eps: float, dtype: DTypeLike) -> nn.LayerNorm:
    """LayerNorm with float32 statistics; the variance is that of the differences, not E[x^2] - E[x]^2.

    Flax's own fast variance cancels where a token's mean is large, and with eps 1e-12 nothing would hide it.
    """
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False)


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value (the twin of `vitkit.layers.Attention`).

    The softmax is float32. Its weights (b, h, n, m) are sown as `attention` among the intermediates: ask for them with
    `apply(..., mutable=["intermediates"])`; they are the ones that the forward pass uses.
    """

    num_heads: int
    qkv_bias: bool = True
    qk_norm_eps: float | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], context: Float[Array, "b m d"] | None = None, *, train: bool = False
    ) -> Float[Array, "b n d"]:
        """The tokens `x` after attending to `context`, or to themselves."""
        context = x if context is None else context
        width = x.shape[-1]
        heads = partial(
            nn.DenseGeneral,
            features=(self.num_heads, width // self.num_heads),
            use_bias=self.qkv_bias,
            kernel_init=xavier,
            dtype=self.dtype,
        )
        q, k, v = heads(name="query")(x), heads(name="key")(context), heads(name="value")(context)
        if self.qk_norm_eps:
            norm = partial(nn.LayerNorm, epsilon=self.qk_norm_eps, dtype=self.dtype, use_fast_variance=False)
            q, k = norm(name="query_ln")(q), norm(name="key_ln")(k)
        logits = jnp.einsum("bnhk,bmhk->bhnm", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=-1)
        self.sow("intermediates", "attention", weights)
        weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
        x = jnp.einsum("bhnm,bmhk->bnhk", weights.astype(v.dtype), v)
        return nn.DenseGeneral(width, axis=(-2, -1), kernel_init=xavier, dtype=self.dtype, name="out")(x)


class MLP(nn.Module):
    """Two dense layers with an activation between, dropout after each."""

    hidden: int
    act: str = "gelu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], *, train: bool = False) -> Float[Array, "*b d"]:
        """Each token on its own."""
        dense = partial(nn.Dense, kernel_init=xavier, bias_init=nn.initializers.normal(1e-6), dtype=self.dtype)
        drop = partial(nn.Dropout(self.dropout), deterministic=not train)
        width = x.shape[-1]
        x = drop(ACTIVATIONS[self.act](dense(self.hidden, name="Dense_0")(x)))
        return drop(dense(width, name="Dense_1")(x))


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """`x` scaled channel by channel."""
        return x * self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],)).astype(x.dtype)


class Block(nn.Module):
    """One pre-norm encoder block (ViT paper, equations 2-3); its output is sown as `hidden_state`."""

    num_heads: int
    mlp_width: int
    act: str = "gelu"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The parts, under the names of the original tree; LayerScale, which it lacks, under a name of the kind."""
        qk_norm_eps = self.norm_eps if self.qk_norm else None
        self.LayerNorm_0 = layer_norm(self.norm_eps, self.dtype)
        self.MultiHeadDotProductAttention_0 = Attention(
            self.num_heads, self.qkv_bias, qk_norm_eps, self.attention_dropout, self.dtype
        )
        self.LayerScale_0 = None if self.layer_scale is None else LayerScale(self.layer_scale)
        self.LayerNorm_1 = layer_norm(self.norm_eps, self.dtype)
        self.MlpBlock_0 = MLP(self.mlp_width, self.act, self.dropout, self.dtype)
        self.LayerScale_1 = None if self.layer_scale is None else LayerScale(self.layer_scale)
        self.drop = nn.Dropout(self.dropout)
        # Stochastic depth is a dropout that draws once a sample.
        self.drop_branch = nn.Dropout(self.drop_path, broadcast_dims=(1, 2))

    def __call__(self, x: Float[Array, "b n d"], train: bool = False) -> Float[Array, "b n d"]:
        """The tokens after attention and MLP."""
        branch = self.drop(self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x), train=train), not train)
        x = x + self.drop_branch(branch if self.LayerScale_0 is None else self.LayerScale_0(branch), not train)
        branch = self.MlpBlock_0(self.LayerNorm_1(x), train=train)
        x = x + self.drop_branch(branch if self.LayerScale_1 is None else self.LayerScale_1(branch), not train)
        self.sow("intermediates", "hidden_state", x)
        return x


class MapPool(nn.Module):
    """Multi-head attention pooling: one learned query (`probe`) attends to all tokens, then a residual MLP."""

    num_heads: int
    mlp_width: int
    act: str = "gelu"
    norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """One vector a picture."""
        probe = self.param("probe", xavier, (1, 1, x.shape[-1])).astype(x.dtype)
        query = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
        attention = Attention(self.num_heads, dtype=self.dtype, name="MultiHeadDotProductAttention_0")
        pooled = attention(query, x)
        norm = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, use_fast_variance=False, name="LayerNorm_0")
        mlp = MLP(self.mlp_width, self.act, dtype=self.dtype, name="MlpBlock_0")
        return (pooled + mlp(norm(pooled)))[:, 0]
