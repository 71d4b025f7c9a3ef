"""The attention of the Hugging Face ViT, with the module tree of transformers 4."""

from collections.abc import Iterable
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import DropPath, attention_weights
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.properties import ProjectionNames, Replaceable, accepts
from vitkit.transformers.pruning import Projections, prune

IMPLEMENTATIONS = ("eager", "sdpa")
# Attention weights of the layers that ran, to which a module appends its own.
Collected = list[Tensor | None]


class ViTSelfAttention(Replaceable):
    """Multi-head self-attention with separate query, key and value projections.

    Head masks and pruning work with both implementations. Raises ValueError if the hidden size is not a multiple of the
    number of heads and the config has no `head_dim`.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("output_attentions",)

    def __init__(self, config: ViTConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        if width % heads and not hasattr(config, "head_dim"):
            raise ValueError(f"The hidden size {width} is not a multiple of the number of attention heads {heads}.")
        self.config = config
        self.num_attention_heads = heads
        self.attention_head_size = getattr(config, "head_dim", width // heads)
        self.all_head_size = heads * self.attention_head_size
        self.dropout_prob = config.attention_probs_dropout_prob
        self.is_causal = False
        self.query = nn.Linear(width, self.all_head_size, bias=config.qkv_bias)
        self.key = nn.Linear(width, self.all_head_size, bias=config.qkv_bias)
        self.value = nn.Linear(width, self.all_head_size, bias=config.qkv_bias)

    @property
    def scaling(self) -> float:
        """The scale of the attention logits: 1 / sqrt(head width)."""
        return self.attention_head_size**-0.5

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
        *,
        attention_mask: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b h n n"] | None]:
        """Returns the concatenated outputs of the heads, and the attention weights.

        The weights are None with "sdpa" unless `output_attentions`. `attention_mask` is added to the logits,
        `head_mask` (b or 1, h, n or 1, n or 1) multiplies the weights. With "sdpa" the returned weights are those
        before dropout, and `output_attentions` does not change the first output.
        """
        # transformers 4 calls the projections in this order, which hooks see.
        k, v, q = (
            rearrange(projection(hidden_states), "b n (h k) -> b h n k", h=self.num_attention_heads)
            for projection in (self.key, self.value, self.query)
        )
        dropout = self.dropout_prob if self.training else 0.0
        # The fused kernel does not return the weights that a mask with a key dimension has to multiply.
        explicit = self.config._attn_implementation == "eager" or (head_mask is not None and head_mask.shape[-1] != 1)
        weights = attention_weights(q, k, attention_mask).to(q.dtype) if explicit or output_attentions else None
        if explicit and weights is not None:
            weights = F.dropout(weights, dropout, training=self.training)
            weights = weights if head_mask is None else weights * head_mask
            context = weights @ v
        else:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, dropout_p=dropout)
            if head_mask is not None:
                context = context * head_mask
                weights = None if weights is None else weights * head_mask
        return rearrange(context, "b h n k -> b n (h k)"), weights


class ViTSelfOutput(nn.Module):
    """Output projection of the attention, with dropout and stochastic depth. The layer adds the residual."""

    drop_path: DropPath | None

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        inner = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        self.dense = nn.Linear(config.num_attention_heads * inner, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path) if drop_path else None

    def forward(
        self, hidden_states: Float[Tensor, "b n k"], input_tensor: Float[Tensor, "b n d"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Returns the projected tokens. `input_tensor`, the input of the attention, is not used."""
        hidden_states = self.dropout(self.dense(hidden_states))
        return hidden_states if self.drop_path is None else self.drop_path(hidden_states)


class ViTAttention(Replaceable, ProjectionNames):
    """Attention of a layer: `ViTSelfAttention` and its output projection."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("output_attentions", "attentions")

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.attention = ViTSelfAttention(config)
        self.output = ViTSelfOutput(config, drop_path)
        self.pruned_heads: set[int] = set()

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
        *,
        attention_mask: Float[Tensor, "..."] | None = None,
        attentions: Collected | None = None,
    ) -> Float[Tensor, "b n d"] | tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """Returns the output tokens, or (tokens, attention weights) if `output_attentions` is True.

        The attention weights are appended to `attentions` if it is given. See `ViTSelfAttention.forward`.
        """
        collected: Collected | None = [] if output_attentions else attentions
        context = run(self.attention, ViTSelfAttention, hidden_states, head_mask, attention_mask, collected)
        output = self.output(context, hidden_states)
        if not output_attentions:
            return output
        weights = collected[0] if collected else None
        if attentions is not None:
            attentions.append(weights)
        return output, weights

    @property
    def num_attention_heads(self) -> int:
        """The number of heads that are not pruned."""
        return self.attention.num_attention_heads

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.attention.attention_head_size

    @property
    def scaling(self) -> float:
        """The scale of the attention logits: 1 / sqrt(head width)."""
        return self.attention.scaling

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Removes attention heads, given by their original indices. See `pruning.prune`."""
        inner = self.attention
        projections = Projections(inner.query, inner.key, inner.value, self.output.dense)
        remaining = prune(projections, heads, self.pruned_heads, inner.config.num_attention_heads, self.head_dim)
        inner.num_attention_heads = len(remaining)
        inner.all_head_size = inner.num_attention_heads * self.head_dim


def run(
    module: nn.Module,
    own: type[Replaceable],
    hidden_states: Float[Tensor, "b n d"],
    head_mask: Tensor | None,
    attention_mask: Tensor | None,
    attentions: Collected | None,
) -> Tensor:
    """Calls a layer or its attention as transformers 4.57 does, and returns the tokens.

    Other arguments are passed only if they are needed, so that modules written for transformers can replace those of
    the class `own`. The attention weights are appended to `attentions` if it is given: None if the module does not
    return them.
    """
    options: dict[str, object] = {} if attention_mask is None else {"attention_mask": attention_mask}
    if attentions is None:
        result = module(hidden_states, head_mask, **options)
        return result[0] if isinstance(result, tuple) else result
    if accepts(module, own, "attentions"):
        result = module(hidden_states, head_mask, attentions=attentions, **options)
        return result[0] if isinstance(result, tuple) else result
    if accepts(module, own, "output_attentions"):
        options["output_attentions"] = True
    result = module(hidden_states, head_mask, **options)
    attentions.append(result[1] if isinstance(result, tuple) and result[1:] else None)
    return result[0] if isinstance(result, tuple) else result
