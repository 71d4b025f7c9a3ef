"""Layers of the Flax model, and the resizing of position embeddings with constant matrices."""

from collections.abc import Callable
from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vitkit.layers.activations import CORE, QUICK_GELU_FACTOR

Grid = tuple[int, int]


def sincos2d(grid: Grid, width: int, *, temperature: float = 10_000.0) -> Float[np.ndarray, "n d"]:
    """Returns fixed sine-cosine position embeddings, with the channels ordered as in MoCo v3 and big_vision.

    x is the column.
    """
    if width % 4 or width < 8:
        raise ValueError(f"width is {width}; sine-cosine position embeddings need a multiple of 4 that is at least 8")
    omega = temperature ** -(np.arange(width // 4) / (width // 4 - 1))
    y, x = (axis.reshape(-1, 1) * omega for axis in np.indices(grid, dtype=np.float64))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns the values of Keys' cubic kernel. `a` is -0.75 in PyTorch, but -0.5 with antialiasing and in PIL."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _bicubic_taps(old: int, new: int, scale: float) -> np.ndarray:
    matrix = np.zeros((new, old))
    center = (np.arange(new) + 0.5) / scale - 0.5
    for tap in range(-1, 3):
        index = np.floor(center) + tap
        # Indices outside of the grid are clamped to the border.
        np.add.at(matrix, (np.arange(new), index.clip(0, old - 1).astype(int)), _cubic(center - index, -0.75))
    return matrix


def _bicubic(old: int, new: int) -> np.ndarray:
    return _bicubic_taps(old, new, new / old)


def _bicubic_offset(old: int, new: int) -> np.ndarray:
    return _bicubic_taps(old, new, (new + 0.1) / old)


def _bicubic_antialias(old: int, new: int) -> np.ndarray:
    stretch = max(old / new, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * old / new
    matrix = _cubic((np.arange(old)[None] + 0.5 - center) / stretch, -0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


def _bilinear_corners(old: int, new: int) -> np.ndarray:
    position = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(old)[None]), 0.0)


def _bilinear_antialias(old: int, new: int) -> np.ndarray:
    stretch = max(old / new, 1.0)
    center = (np.arange(new)[:, None] + 0.5) * old / new
    matrix = np.maximum(1.0 - np.abs((np.arange(old)[None] + 0.5 - center) / stretch), 0.0)
    return matrix / matrix.sum(axis=1, keepdims=True)


RESIZES: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": _bicubic,
    "bicubic_antialias": _bicubic_antialias,
    "bilinear_corners": _bilinear_corners,
    "bicubic_offset": _bicubic_offset,
    "bilinear_antialias": _bilinear_antialias,
}


@lru_cache(maxsize=256)
def resize_matrix(old: int, new: int, method: str) -> Float[np.ndarray, "new old"]:
    """Returns the float32 matrix that resizes one axis of a grid of position embeddings."""
    if method not in RESIZES:
        raise ValueError(f"unknown resize method '{method}'; expected one of {', '.join(RESIZES)}")
    return RESIZES[method](old, new).astype(np.float32)


def resize_positions(table: Float[Array, "n d"], old: Grid, new: Grid, method: str) -> Float[Array, "m d"]:
    """Resizes position embeddings with the same results as `vitkit.layers.resize_positions`."""
    rows, columns = (resize_matrix(*sizes, method) for sizes in zip(old, new, strict=True))
    if table.shape[0] != old[0] * old[1]:
        raise ValueError(f"{table.shape[0]} position embeddings do not match a grid of {old[0]}x{old[1]} patches")
    if old == new:
        return table
    image = table.astype(jnp.float32).reshape(*old, -1)
    resized = jnp.einsum("rp,cq,pqd->rcd", rows, columns, image, precision="highest")
    return resized.reshape(new[0] * new[1], -1).astype(table.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    name: partial(getattr(nn, each.flax[0]), **each.flax[1]) for name, each in CORE.items() if each.flax is not None
} | {"quick_gelu": lambda x: x * nn.sigmoid(QUICK_GELU_FACTOR * x)}

xavier = nn.initializers.xavier_uniform()


def layer_norm(eps: float, dtype: DTypeLike) -> nn.LayerNorm:
    """Returns a LayerNorm with float32 statistics, computed without Flax's fast variance.

    The fast variance, E[x^2] - E[x]^2, is inaccurate for tokens with a large mean, which matters for eps 1e-12.
    """
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False)


class Attention(nn.Module):
    """Multi-head attention with separate query, key and value projections.

    The softmax is computed in float32. The attention weights (b, h, n, m) are sown as `attention`: get them with
    `apply(..., mutable=["intermediates"])`.
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
        """Applies cross-attention to the tokens in `context`, or self-attention if `context` is None."""
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
    """Two dense layers with an activation in between and dropout after each layer."""

    hidden: int
    act: str = "gelu"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], *, train: bool = False) -> Float[Array, "*b d"]:
        """Applies the MLP to each token."""
        dense = partial(nn.Dense, kernel_init=xavier, bias_init=nn.initializers.normal(1e-6), dtype=self.dtype)
        drop = partial(nn.Dropout(self.dropout), deterministic=not train)
        width = x.shape[-1]
        x = drop(ACTIVATIONS[self.act](dense(self.hidden, name="Dense_0")(x)))
        return drop(dense(width, name="Dense_1")(x))


class LayerScale(nn.Module):
    """LayerScale: one trainable factor per channel of a residual branch."""

    initial: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Multiplies each channel by its factor."""
        return x * self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],)).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm encoder block (ViT paper, equations 2-3). Its output is sown as `hidden_state`."""

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
        """Creates the modules with the names of Google's code, which has no LayerScale."""
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
        # Stochastic depth is dropout with one random number per sample.
        self.drop_branch = nn.Dropout(self.drop_path, broadcast_dims=(1, 2))

    def __call__(self, x: Float[Array, "b n d"], train: bool = False) -> Float[Array, "b n d"]:
        """Applies the attention and the MLP with residual connections."""
        branch = self.drop(self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x), train=train), not train)
        x = x + self.drop_branch(branch if self.LayerScale_0 is None else self.LayerScale_0(branch), not train)
        branch = self.MlpBlock_0(self.LayerNorm_1(x), train=train)
        x = x + self.drop_branch(branch if self.LayerScale_1 is None else self.LayerScale_1(branch), not train)
        self.sow("intermediates", "hidden_state", x)
        return x


class MapPool(nn.Module):
    """Multi-head attention pooling with a trainable query, followed by an MLP."""

    num_heads: int
    mlp_width: int
    act: str = "gelu"
    norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """Returns one pooled vector per image."""
        probe = self.param("probe", xavier, (1, 1, x.shape[-1])).astype(x.dtype)
        query = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
        attention = Attention(self.num_heads, dtype=self.dtype, name="MultiHeadDotProductAttention_0")
        pooled = attention(query, x)
        norm = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, use_fast_variance=False, name="LayerNorm_0")
        mlp = MLP(self.mlp_width, self.act, dtype=self.dtype, name="MlpBlock_0")
        return (pooled + mlp(norm(pooled)))[:, 0]
