"""Multi-head self-attention with fused query, key and value (Vaswani et al. 2017; ViT paper, equations 5-8)."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention; rows of `qkv` are the query, key and value blocks, heads contiguous inside each.

    `bias` is added to the logits before the softmax: a relative position bias or a mask of zeros and minus infinity, of
    a shape that broadcasts to (b, h, n, n). Raises ValueError where the width is not a multiple of the heads.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        qk_norm_eps: float | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"the width {width} is not a multiple of the number of heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.q_norm = nn.LayerNorm(width // num_heads, eps=qk_norm_eps) if qk_norm_eps else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads, eps=qk_norm_eps) if qk_norm_eps else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "..."] | None = None) -> Float[Tensor, "b n d"]:
        """The attended and projected tokens."""
        q, k, v = self.heads(x)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return self.proj(rearrange(x, "b h n k -> b n (h k)"))

    def weights(self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "..."] | None = None) -> Float[Tensor, "b h n n"]:
        """The weights that `forward` uses inside its fused kernel: softmax(q k^T / sqrt(k) + bias), in float32."""
        q, k, _ = self.heads(x)
        logits = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
        if bias is not None:
            logits = logits + bias
        return logits.softmax(dim=-1)

    def heads(
        self, x: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b h n k"], Float[Tensor, "b h n k"], Float[Tensor, "b h n k"]]:
        """Query, key and value, one slice a head."""
        q, k, v = rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.num_heads).unbind(0)
        return self.q_norm(q), self.k_norm(k), v
