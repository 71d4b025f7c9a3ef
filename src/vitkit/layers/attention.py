"""Multi-head self-attention (Vaswani et al. 2017; ViT paper, equations 5-8)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.kernels.attention import supports_packed
from vitkit.kernels.packed_attention import packed_attention, preferred
from vitkit.layers.relative import relative_logits
from vitkit.layers.rotary import rotate


def attention_weights(
    q: Float[Tensor, "b h n k"], k: Float[Tensor, "b h m k"], bias: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "b h n m"]:
    """Computes the attention weights softmax(q k^T / sqrt(head width) + bias) in float32."""
    logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention with a fused qkv projection.

    The rows of `qkv` are the query, key and value projections; the heads are contiguous inside each.

    `bias` is added to the logits before the softmax: a relative position bias, or a mask of zeros and minus infinity.
    Its shape broadcasts to (b, h, n, n). `rotation` rotates the queries and keys of the patches (`layers.rotary`).
    `qkv_bias="qv"` is BEiT's variant: no key bias, because the softmax is invariant to it. `relative_rows` is the
    number of rows of this layer's relative position bias table, from which the model computes `bias` for a grid.
    `num_offsets` is the number of this layer's relative position vectors, which the model passes as `relative`
    (both in `layers.relative`). Raises ValueError if the width is not a multiple of the number of heads.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        qkv_bias: bool | Literal["qv"] = True,
        qk_norm_eps: float | None = None,
        relative_rows: int = 0,
        num_offsets: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of the number of heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias is True)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias == "qv" else None
        self.q_norm = nn.LayerNorm(width // num_heads, eps=qk_norm_eps) if qk_norm_eps else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads, eps=qk_norm_eps) if qk_norm_eps else nn.Identity()
        self.relative_position_bias_table = (
            nn.Parameter(torch.zeros(relative_rows, num_heads)) if relative_rows else None
        )
        self.relative_positions = nn.Parameter(torch.zeros(num_offsets, width // num_heads)) if num_offsets else None
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens after attention and output projection."""
        qkv = self._project(x)
        if bias is None and rotation is None and relative is None and self._use_kernel(qkv):
            return self.proj(packed_attention(qkv, self.num_heads))
        q, k, v = self._split(qkv, rotation)
        bias = add_relative_logits(bias, q, relative)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.proj(rearrange(x, "b h n k -> b n (h k)"))

    def weights(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        relative: Float[Tensor, "offsets k"] | None = None,
    ) -> Float[Tensor, "b h n n"]:
        """Returns the attention weights that `forward` uses, softmax(q k^T / sqrt(head width) + bias), in float32."""
        q, k, _ = self.heads(x, rotation)
        return attention_weights(q, k, add_relative_logits(bias, q.float(), relative))

    def heads(
        self, x: Float[Tensor, "b n d"], rotation: Float[Tensor, "2 p k"] | None = None
    ) -> tuple[Float[Tensor, "b h n k"], Float[Tensor, "b h n k"], Float[Tensor, "b h n k"]]:
        """Returns query, key and value, split into heads."""
        return self._split(self._project(x), rotation)

    def packed(
        self, x: Float[Tensor, "n d"], shapes: Sequence[tuple[int, int]], inputs: Sequence[Mapping[str, Tensor]]
    ) -> Float[Tensor, "n d"]:
        """Returns the results of `forward` for each group of images in a packed sequence.

        `shapes` are the (images, tokens per image) of each group, `inputs` its keyword arguments of `forward`.
        """
        parts = self._project(x).split([count * length for count, length in shapes])
        groups = []
        for part, shape, kwargs in zip(parts, shapes, inputs, strict=True):
            q, k, v = self._split(part.unflatten(0, shape), kwargs.get("rotation"))
            bias = add_relative_logits(kwargs.get("bias"), q, kwargs.get("relative"))
            dropout = self.dropout if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
            groups.append(rearrange(attended, "b h n k -> (b n) (h k)"))
        return self.proj(torch.cat(groups))

    def _project(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b three_d"]:
        qkv = self.qkv(x)
        if self.q_bias is not None and self.v_bias is not None:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]).to(qkv.dtype)
        return qkv

    def _use_kernel(self, qkv: Float[Tensor, "b n three_d"]) -> bool:
        """Returns whether the C kernel supports this bfloat16 input and is faster than torch (on CPUs without AMX)."""
        plain = isinstance(self.q_norm, nn.Identity) and not (self.training and self.dropout)
        return plain and supports_packed(qkv, self.num_heads) and preferred()

    def _split(
        self, qkv: Float[Tensor, "b n three_d"], rotation: Float[Tensor, "2 p k"] | None
    ) -> tuple[Float[Tensor, "b h n k"], Float[Tensor, "b h n k"], Float[Tensor, "b h n k"]]:
        q, k, v = rearrange(qkv, "b n (three h k) -> three b h n k", three=3, h=self.num_heads).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)


def add_relative_logits(
    bias: Float[Tensor, "..."] | None, q: Float[Tensor, "b h n k"], relative: Float[Tensor, "offsets k"] | None
) -> Float[Tensor, "..."] | None:
    """Adds the attention logits of the relative position vectors to `bias`. `bias` and `relative` may be None."""
    if relative is None:
        return bias
    logits = relative_logits(q, relative)
    return logits if bias is None else logits + bias
