"""Attention with timm's arguments and module names."""

import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from vitkit import layers
from vitkit.layers import attention_weights
from vitkit.timm.layers._settings import LayerType, norm_eps


class Attention(layers.Attention):
    """Multi-head self-attention. Without `fused_attn`, hooks on `attn_drop` can read the attention weights.

    `qkv_bias="qv"` has separate biases of query and value and no key bias (BEiT, DINOv3).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool | Literal["qv"] = False,
        qk_norm: bool = False,
        *,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: LayerType | None = None,
        relative_rows: int = 0,
    ):
        eps = norm_eps(norm_layer) if qk_norm else None
        super().__init__(dim, num_heads, qkv_bias=qkv_bias, qk_norm_eps=eps, relative_rows=relative_rows)
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.fused_attn = True
        self.attn_drop = nn.Dropout(attn_drop)
        self.norm = nn.Identity()
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(  # type: ignore[override] - timm's arguments
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        rope: Tensor | None = None,
    ) -> Tensor:
        """Returns the tokens after attention and projection.

        `attn_mask` is added to the logits, or is False where a token is masked. `rope` is the rotary embedding of the
        patches (`vitkit.layers.axial_rotation`).
        """
        bias = attention_bias(attn_mask, is_causal, x)
        if self.fused_attn:
            self.dropout = self.attn_drop.p
            return self.proj_drop(super().forward(x, bias, rope))
        q, k, v = self.heads(x, rope)
        weights = self.attn_drop(attention_weights(q, k, bias).to(v.dtype))
        return self.proj_drop(self.proj(self.norm(rearrange(weights @ v, "b h n k -> b n (h k)"))))


def attention_bias(attn_mask: Tensor | None, is_causal: bool, x: Tensor) -> Tensor | None:
    """Returns the mask as values to add to the attention logits, or None if nothing is masked."""
    if is_causal:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        if attn_mask is not None:
            raise RuntimeError("attn_mask and is_causal are exclusive; pass one of them")
        attn_mask = causal
    if attn_mask is None or attn_mask.dtype is not torch.bool:
        return attn_mask
    return torch.zeros(attn_mask.shape, dtype=x.dtype, device=x.device).masked_fill(~attn_mask, -math.inf)
