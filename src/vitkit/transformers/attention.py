"""The attention of the Hugging Face ViT: query, key and value apart, heads that can be masked, pruned and looked at."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import attention_weights
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.names import Shelf

IMPLEMENTATIONS = ("eager", "sdpa")


class ViTAttention(nn.Module):
    """Self-attention with separate `q_proj`, `k_proj`, `v_proj` and `o_proj`, as LoRA and hooks expect them.

    The weights come from `vitkit.layers.attention_weights`, the rest from the fused kernel. Raises ValueError where the
    hidden size is not a multiple of the heads and the config states no `head_dim`.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads and not hasattr(config, "head_dim"):
            raise ValueError(f"The hidden size {width} is not a multiple of the number of attention heads {heads}.")
        self.config = config
        self.num_attention_heads = heads
        self.head_dim = getattr(config, "head_dim", width // heads)
        self.pruned_heads: set[int] = set()
        inner = heads * self.head_dim
        self.q_proj = nn.Linear(width, inner, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, inner, bias=config.qkv_bias)
        self.v_proj = nn.Linear(width, inner, bias=config.qkv_bias)
        self.o_proj = nn.Linear(inner, width)

    @property
    def attention(self) -> Shelf:
        """Where `query`, `key` and `value` were before 5.9."""
        return Shelf(query=(self, "q_proj"), key=(self, "k_proj"), value=(self, "v_proj"))

    @property
    def output(self) -> Shelf:
        """Where `dense` was before 5.9."""
        return Shelf(dense=(self, "o_proj"))

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        attention_mask: Float[Tensor, "..."] | None = None,
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """The attended tokens, and the weights where asked for (or the implementation is eager, which has them anyway).

        `attention_mask` is added to the logits, `head_mask` (b or 1, h, n or 1, n or 1) multiplies the weights. Under
        "sdpa" the weights are those before dropout, and asking for them changes no other output by a bit.
        """
        q, k, v = (
            rearrange(proj(hidden_states), "b n (h k) -> b h n k", h=self.num_attention_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        # A mask that differs from key to key cannot be had from the outside of the fused kernel.
        by_hand = self.config._attn_implementation == "eager" or (head_mask is not None and head_mask.shape[-1] != 1)
        weights = attention_weights(q, k, attention_mask).to(q.dtype) if by_hand or output_attentions else None
        if by_hand and weights is not None:
            weights = F.dropout(weights, dropout, training=self.training)
            weights = weights if head_mask is None else weights * head_mask
            context = weights @ v
        else:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, dropout_p=dropout)
            if head_mask is not None:
                context = context * head_mask
                weights = None if weights is None else weights * head_mask
        return self.o_proj(rearrange(context, "b h n k -> b n (h k)")), weights

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Takes heads out for good, by their numbers before any pruning; ValueError for one that is not there."""
        total = self.config.num_attention_heads
        wanted = set(heads) - self.pruned_heads
        if not wanted <= set(range(total)):
            raise ValueError(f"there is no head {sorted(wanted - set(range(total)))}; there are {total}, from 0")
        if len(self.pruned_heads | wanted) == total:
            raise ValueError(f"at least one of the {total} heads of a layer has to stay")
        left = [head for head in range(total) if head not in self.pruned_heads]
        kept = torch.tensor([index for index, head in enumerate(left) if head not in wanted])
        rows = rearrange(kept[:, None] * self.head_dim + torch.arange(self.head_dim), "h k -> (h k)")
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, _selected(getattr(self, name), rows, axis=0))
        self.o_proj = _selected(self.o_proj, rows, axis=1)
        self.num_attention_heads = kept.shape[0]
        self.pruned_heads |= wanted


def _selected(linear: nn.Linear, index: Tensor, axis: int) -> nn.Linear:
    """The layer with only those of its outputs (axis 0) or inputs (axis 1)."""
    index = index.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(axis, index), linear.weight.requires_grad)
    if axis == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[index], linear.bias.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
    return linear
