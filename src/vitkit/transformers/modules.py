"""Modules of the Hugging Face ViT: embeddings, attention and encoder layers."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import MLP, DropPath, attention_weights, check_axes, layer_norm, resize_positions
from vitkit.layers.activations import ACTIVATIONS
from vitkit.transformers.configuration import ViTConfig, pair
from vitkit.transformers.names import AliasGroup

IMPLEMENTATIONS = ("eager", "sdpa")


class ViTAttention(nn.Module):
    """Multi-head self-attention with separate query, key and value projections.

    Head masks and pruning work with both implementations. Raises ValueError if the hidden size is not a multiple of the
    number of heads and the config has no `head_dim`.
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
    def attention(self) -> AliasGroup:
        """Alias of the module that contained `query`, `key` and `value` before transformers 5.9."""
        return AliasGroup(query=(self, "q_proj"), key=(self, "k_proj"), value=(self, "v_proj"))

    @property
    def output(self) -> AliasGroup:
        """Alias of the module that contained the output projection before transformers 5.9."""
        return AliasGroup(dense=(self, "o_proj"))

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        attention_mask: Float[Tensor, "..."] | None = None,
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """Returns the output tokens and the attention weights.

        The weights are None with "sdpa" unless `output_attentions`. `attention_mask` is added to the logits,
        `head_mask` (b or 1, h, n or 1, n or 1) multiplies the weights. With "sdpa" the returned weights are those
        before dropout, and `output_attentions` does not change the tokens.
        """
        q, k, v = (
            rearrange(proj(hidden_states), "b n (h k) -> b h n k", h=self.num_attention_heads)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
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
        return self.o_proj(rearrange(context, "b h n k -> b n (h k)")), weights

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Removes attention heads, given by their original indices. Raises ValueError for an invalid index."""
        total = self.config.num_attention_heads
        pruned = set(heads) - self.pruned_heads
        if invalid := sorted(pruned - set(range(total))):
            raise ValueError(f"cannot prune heads {invalid}: the layer has heads 0 to {total - 1}")
        if len(self.pruned_heads | pruned) == total:
            raise ValueError(f"cannot prune all {total} heads of a layer")
        present = [head for head in range(total) if head not in self.pruned_heads]
        retained = torch.tensor([index for index, head in enumerate(present) if head not in pruned])
        rows = rearrange(retained[:, None] * self.head_dim + torch.arange(self.head_dim), "h k -> (h k)")
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, _select(getattr(self, name), rows, axis=0))
        self.o_proj = _select(self.o_proj, rows, axis=1)
        self.num_attention_heads = retained.shape[0]
        self.pruned_heads |= pruned


def _select(linear: nn.Linear, index: Tensor, axis: int) -> nn.Linear:
    """Reduces a linear layer in place to the selected output (axis 0) or input (axis 1) features."""
    index = index.to(linear.weight.device)
    linear.weight = nn.Parameter(linear.weight.detach().index_select(axis, index), linear.weight.requires_grad)
    if axis == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[index], linear.bias.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
    return linear


class ViTPatchEmbeddings(nn.Module):
    """Patch embedding: a convolution whose stride equals the patch size.

    Pixels at the right and bottom that fill no patch are ignored. Raises ValueError for a wrong number of channels.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.image_size, self.patch_size = pair(config.image_size), pair(config.patch_size)
        self.num_channels = config.num_channels
        self.grid = self.grid_of(*self.image_size)
        self.num_patches = math.prod(self.grid)
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size
        )

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns the number of rows and columns of patches for an image size."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def forward(self, pixel_values: Float[Tensor, "b c height width"]) -> Float[Tensor, "b p d"]:
        """Returns one token per patch, in row-major order."""
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                "Make sure that the channel dimension of the pixel values match with the one set in the configuration."
                f" Expected {self.num_channels} but got {pixel_values.shape[1]}."
            )
        return rearrange(self.projection(pixel_values), "b d r c -> b (r c) d")


class ViTEmbeddings(nn.Module):
    """Embeddings: the class token and the patch embeddings, with position embeddings added.

    The mask token replaces masked patches. Image and patch sizes need not be square. Raises ValueError for another
    image size than `config.image_size` unless positions are interpolated, and for a mask if the model has no mask
    token.
    """

    def __init__(self, config: ViTConfig, use_mask_token: bool = False):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if use_mask_token else None
        self.patch_embeddings = ViTPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.patch_embeddings.num_patches + 1, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_pos_encoding(
        self, embeddings: Float[Tensor, "b n d"], height: int, width: int
    ) -> Float[Tensor, "1 n d"]:
        """Resizes the position embeddings by the method `config.position_resize` (default: bicubic)."""
        special, patches = self.position_embeddings[0].tensor_split([1])
        native, grid = self.patch_embeddings.grid, self.patch_embeddings.grid_of(height, width)
        method = getattr(self.config, "position_resize", "bicubic")
        return torch.cat([special, resize_positions(patches, native, grid, method)])[None]

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens that are the input of the first layer."""
        check_axes(pixel_values)
        height, width = pixel_values.shape[2:]
        tokens = self.patch_embeddings(pixel_values)
        if not interpolate_pos_encoding and (height, width) != self.patch_embeddings.image_size:
            rows, columns = self.patch_embeddings.image_size
            raise ValueError(f"Input image size ({height}*{width}) doesn't match model ({rows}*{columns}).")
        if bool_masked_pos is not None:
            tokens = self._masked(tokens, bool_masked_pos)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        positions = self.position_embeddings
        if interpolate_pos_encoding:
            positions = self.interpolate_pos_encoding(tokens, height, width)
        return self.dropout(tokens + positions)

    def _masked(self, tokens: Float[Tensor, "b p d"], bool_masked_pos: Shaped[Tensor, "b p"]) -> Float[Tensor, "b p d"]:
        if self.mask_token is None:
            raise ValueError(
                "bool_masked_pos needs a mask token: create the model with ViTModel(config, use_mask_token=True)"
            )
        if bool_masked_pos.shape != tokens.shape[:2]:
            raise ValueError(
                f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}; expected {tuple(tokens.shape[:2])}"
            )
        mask = bool_masked_pos[:, :, None].to(tokens.dtype)
        return tokens * (1.0 - mask) + self.mask_token * mask


# Activations by their names in transformers.
ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    name: each.module for each in ACTIVATIONS.values() for name in each.transformers
}


def make_activation(name: str) -> nn.Module:
    """Creates an activation by its name in transformers. Raises ValueError if the name is unknown."""
    if name not in ACTIVATION_MODULES:
        raise ValueError(f"unknown activation '{name}'; expected one of {', '.join(sorted(ACTIVATION_MODULES))}")
    return ACTIVATION_MODULES[name]()


class ViTLayer(nn.Module):
    """Pre-norm encoder layer: attention and MLP with residual connections.

    Computes what `vitkit.layers.Block` does, with the module names of transformers.
    """

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.attention = ViTAttention(config)
        self.layernorm_before = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.layernorm_after = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.mlp.act = make_activation(config.hidden_act)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path)

    @property
    def intermediate(self) -> AliasGroup:
        """Alias of the module that contained the first MLP layer before transformers 5.9."""
        return AliasGroup(dense=(self.mlp, "fc1"))

    @property
    def output(self) -> AliasGroup:
        """Alias of the module that contained the second MLP layer before transformers 5.9."""
        return AliasGroup(dense=(self.mlp, "fc2"))

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        attention_mask: Float[Tensor, "..."] | None = None,
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
    ) -> Float[Tensor, "b n d"] | tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """Returns the output tokens, or (tokens, attention weights) if `output_attentions` is True."""
        attention_output, weights = self.attention(
            self.layernorm_before(hidden_states), attention_mask, head_mask, output_attentions
        )
        hidden_states = hidden_states + self.drop_path(self.dropout(attention_output))
        hidden_states = hidden_states + self.drop_path(self.dropout(self.mlp(self.layernorm_after(hidden_states))))
        return (hidden_states, weights) if output_attentions else hidden_states
