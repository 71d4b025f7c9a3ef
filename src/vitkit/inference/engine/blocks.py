"""Attention for inference, by whichever way is the fastest here; all ways are softmax(q k^T / sqrt(k) + bias) v."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.inference.engine.dense import fused_name
from vitkit.inference.engine.machine import Machine
from vitkit.inference.engine.merging import Merging
from vitkit.inference.engine.quantization import quantising
from vitkit.kernels import attention
from vitkit.kernels import attention as kernel
from vitkit.layers import MLP, Attention, Block, LayerScale, SwiGLU, rotate
from vitkit.layers.attention import add_relative_logits

Way = Literal["fused", "kernel", "products"]


def attention_way(machine: Machine, dtype: torch.dtype) -> Way:
    """The way for that machine and type.

    torch's fused kernel is the best where the CPU has tiles and in float32. On a CPU whose only bfloat16 arithmetic is
    AVX-512's it is not: two batched products and a softmax take 60 % of its time, and our own kernel, where it was
    compiled, half of that.
    """
    slow = machine.packs and machine.bfloat16 and not machine.tiles and dtype == torch.bfloat16
    return "fused" if not slow else "kernel" if attention.available() else "products"


def attend(
    q: Float[Tensor, "b h m k"],
    k: Float[Tensor, "b h n k"],
    v: Float[Tensor, "b h n k"],
    bias: Float[Tensor, "..."] | None,
    way: Way,
) -> Float[Tensor, "b m d"]:
    """The attended values, heads side by side; `bias` broadcasts to (b, h, m, n)."""
    if way == "kernel" and attention.takes(q, k, v):
        return attention.attention(q, k, v, bias)
    if way != "fused":
        return _products(q, k, v, bias)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
    return out.transpose(1, 2).flatten(2)


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """One picture at a time, so that its weights (h, m, n) are still in the cache when they meet the values."""
    b, h, m, width = q.shape
    out = q.new_empty(b, m, h, width)
    if bias is not None:
        bias = bias.expand(b, h, m, k.shape[2])
    scale = width**-0.5
    for index in range(b):
        query = q[index].contiguous() if scale == 1 else q[index] * scale
        logits = torch.bmm(query, k[index].contiguous().transpose(1, 2))
        if bias is not None:
            logits = logits + bias[index]
        out[index].copy_(torch.bmm(logits.softmax(-1).to(v.dtype), v[index].contiguous()).transpose(0, 1))
    return out.flatten(2)


# Makes the dense layer of that name from a weight, a bias and, where there is one, an activation.
Make = Callable[..., nn.Module]


def is_plain(block: nn.Module) -> bool:
    """Whether a block is one whose arithmetic is known here, down to its activation."""
    if type(block) is not Block or type(block.attn) is not Attention:
        return False
    if type(block.mlp) is MLP:
        return fused_name(block.mlp.act) is not None
    return type(block.mlp) is SwiGLU


class FusedAttention(nn.Module):
    """`Attention`, made of dense layers that are packed; `gamma` (LayerScale) goes into the projection.

    With `keep` only the first tokens ask and are given an answer: what the last block of a classifier needs.
    Tables of positions stay where the model looks for them, in `relative_position_bias_table`, `relative_positions`.
    """

    def __init__(
        self, attention: Attention, make: Make, way: Way, *, gamma: Tensor | None = None, keep: int | None = None
    ):
        super().__init__()
        self.num_heads = attention.num_heads
        self.keep = keep
        self.way: Way = way
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.relative_positions = attention.relative_positions
        weight, bias = attention.qkv.weight, attention.qkv.bias
        whole = weight.shape[1] % (self.num_heads * kernel.VECTOR) == 0
        # The kernel reads the heads where the projection puts them.
        self.direct = way == "kernel" and whole and keep is None and isinstance(self.q_norm, nn.Identity)
        if attention.q_bias is not None and attention.v_bias is not None:
            bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
        if keep is None:
            self.qkv = make("qkv", weight, bias)
        else:
            width = weight.shape[1]
            self.query = make("query", weight[:width], None if bias is None else bias[:width])
            self.key_value = make("key_value", weight[width:], None if bias is None else bias[width:])
        self.proj = make("proj", *scaled(attention.proj, gamma))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
        residual: Float[Tensor, "b m d"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """The attended and projected tokens, added to the residual if there is one."""
        if self.direct and bias is None and rotation is None and relative is None:
            return self.proj(kernel.packed(self.qkv(x), self.num_heads), residual=residual)
        q, k, v = self.heads(x, rotation)
        return self.answer(q, k, v, add_relative_logits(bias, q, relative) if self.keep is None else bias, residual)

    @property
    def first(self) -> list[nn.Module]:
        """The layers that the tokens go into."""
        return [self.qkv] if self.keep is None else [self.query, self.key_value]

    def answer(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> Float[Tensor, "b m d"]:
        """The projection of what the queries find, added to the residual if there is one."""
        if self.keep is not None and bias is not None and bias.shape[-2] > 1:
            bias = bias[..., : self.keep, :]
        return self.proj(attend(q, k, v, bias, self.way), residual=residual)

    def heads(self, x: Float[Tensor, "b n d"], rotation: Float[Tensor, "2 p k"] | None) -> tuple[Tensor, ...]:
        """Query, key and value, (b, h, n, k) each."""
        if self.keep is None:
            q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        else:
            q = self._split(self.query(x[:, : self.keep]))
            k, v = (self._split(part) for part in self.key_value(x).chunk(2, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is None:
            return q, k, v
        # Special tokens have no place, and no others ask where only those that are kept do.
        return (q if self.keep is not None else rotate(q, rotation)), rotate(k, rotation), v

    def _split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n k"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FusedMLP(nn.Module):
    """`MLP` or `SwiGLU` made of dense layers that are packed; `gamma` (LayerScale) goes into the second.

    The gate of a SwiGLU is one product with its activation, its value another that is multiplied with it.
    """

    def __init__(self, mlp: MLP | SwiGLU, make: Make, *, gamma: Tensor | None = None):
        super().__init__()
        self.gated = type(mlp) is SwiGLU
        if isinstance(mlp, SwiGLU):
            weights = mlp.fc1.weight.chunk(2)
            biases = (None, None) if mlp.fc1.bias is None else mlp.fc1.bias.chunk(2)
            self.fc1 = make("fc1", weights[0], biases[0], act="silu")
            self.value = make("value", weights[1], biases[1])
        else:
            self.fc1 = make("fc1", mlp.fc1.weight, mlp.fc1.bias, act=fused_name(mlp.act))
        self.fc2 = make("fc2", *scaled(mlp.fc2, gamma))

    @property
    def first(self) -> list[nn.Module]:
        """The layers that the tokens go into."""
        return [self.fc1, self.value] if self.gated else [self.fc1]

    def forward(self, x: Float[Tensor, "*b d"], residual: Float[Tensor, "*b d"] | None = None) -> Float[Tensor, "*b d"]:
        """Each token on its own, added to the residual if there is one."""
        hidden = self.fc1(x)
        return self.fc2(self.value(x, factor=hidden) if self.gated else hidden, residual=residual)


class FusedBlock(nn.Module):
    """`Block` with fused attention and MLP, residuals added by the products, and tokens merged in between.

    `merging` is shared by all blocks of a network; `index` is this one's number among them, and the `last` puts merged
    tokens back to their places. A merge needs attention without positions of its own: raises ValueError where it is
    given a bias, a rotation or relative positions.
    """

    def __init__(
        self,
        block: Block,
        attention: FusedAttention,
        mlp: FusedMLP,
        index: int,
        *,
        merging: Merging | None = None,
        last: bool = False,
    ):
        super().__init__()
        self.norm1, self.attn = quantising(block.norm1, *attention.first), attention
        self.norm2, self.mlp = quantising(block.norm2, *mlp.first), mlp
        self.index = index
        self.merging = merging
        self.last = last

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """The tokens after attention and MLP: all, those that are left of them, or the first ones to be kept."""
        if self.merging is not None:
            if bias is not None or rotation is not None or relative is not None:
                raise ValueError("tokens cannot be merged here: this model's attention knows where each of them lies")
            return self._merging(self.merging, x)
        x = self.attn(self.norm1(x), bias, rotation, relative, self._kept(x))
        return self.mlp(self.norm2(x), x)

    def _merging(self, merging: Merging, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        if self.index == 0:
            merging.begin()
        q, k, v = self.attn.heads(self.norm1(x), None)
        x = self.attn.answer(q, k, v, merging.bias(), self._kept(x))
        if self.attn.keep is not None:
            return self.mlp(self.norm2(x), x)
        x = merging.merge(self.index, x, k)
        x = self.mlp(self.norm2(x), x)
        return merging.unmerge(x) if self.last else x

    def _kept(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        return x if self.attn.keep is None else x[:, : self.attn.keep]


def gamma_of(scale: nn.Module) -> Tensor | None:
    """The factors of a LayerScale; None for none."""
    return scale.gamma if isinstance(scale, LayerScale) else None


def scaled(linear: nn.Linear, gamma: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer whose output is multiplied channel by channel."""
    if gamma is None:
        return linear.weight, linear.bias
    return linear.weight * gamma[:, None], None if linear.bias is None else linear.bias * gamma
