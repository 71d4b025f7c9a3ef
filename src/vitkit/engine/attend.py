"""Attention for inference, by whichever way is the fastest here; all ways are softmax(q k^T / sqrt(k) + bias) v."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitkit.engine.machine import Machine
from vitkit.kernels import attention

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
