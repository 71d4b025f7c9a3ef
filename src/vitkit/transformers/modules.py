"""Modules of the Hugging Face ViT: embeddings, self-attention with head masks and pruning, and encoder layers."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import MLP, DropPath, attention_weights, layer_norm, resize_positions
from vitkit.layers.activations import ACTIVATIONS
from vitkit.transformers.configuration import ViTConfig, pair
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


class ViTPatchEmbeddings(nn.Module):
    """Cuts pictures into patches and projects each; a remainder that fills no patch is left out.

    Raises ValueError for a wrong number of channels, in the words of transformers.
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
        """Rows and columns of patches in a picture of that size."""
        return height // self.patch_size[0], width // self.patch_size[1]

    def forward(self, pixel_values: Float[Tensor, "b c height width"]) -> Float[Tensor, "b p d"]:
        """One token a patch, in row-major order."""
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                "Make sure that the channel dimension of the pixel values match with the one set in the configuration."
                f" Expected {self.num_channels} but got {pixel_values.shape[1]}."
            )
        return rearrange(self.projection(pixel_values), "b d r c -> b (r c) d")


class ViTEmbeddings(nn.Module):
    """The class token and the patches with their positions; masked patches show the mask token instead.

    Any image and patch size, square or not, also where the table is interpolated. Raises ValueError for another size
    than the config's without interpolation, and for a mask where the model has no mask token.
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
        """The table for a picture of that size: bicubic without antialias, or as `config.position_resize` says."""
        special, patches = self.position_embeddings[0].tensor_split([1])
        native, grid = self.patch_embeddings.grid, self.patch_embeddings.grid_of(height, width)
        dialect = getattr(self.config, "position_resize", "bicubic")
        return torch.cat([special, resize_positions(patches, native, grid, dialect)])[None]

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The tokens before the first layer."""
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
                "bool_masked_pos needs a mask token: make the model with ViTModel(config, use_mask_token=True)"
            )
        if bool_masked_pos.shape != tokens.shape[:2]:
            raise ValueError(
                f"bool_masked_pos is {tuple(bool_masked_pos.shape)}, the patches are {tuple(tokens.shape[:2])}"
            )
        mask = bool_masked_pos[:, :, None].to(tokens.dtype)
        return tokens * (1.0 - mask) + self.mask_token * mask


# The names of transformers for what a ViT may use.
MODULES: dict[str, Callable[[], nn.Module]] = {
    name: each.module for each in ACTIVATIONS.values() for name in each.transformers
}


def make_activation(name: str) -> nn.Module:
    """The activation of that name of transformers; ValueError that lists them all for an unknown one."""
    if name not in MODULES:
        raise ValueError(f"unknown activation '{name}'; there is {', '.join(sorted(MODULES))}")
    return MODULES[name]()


class ViTLayer(nn.Module):
    """One encoder layer: attention, then an MLP, each behind a LayerNorm and added to its input.

    The order of `vitkit.layers.Block` under the names of transformers; dropout only at the end of each branch.
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
    def intermediate(self) -> Shelf:
        """Where the first dense layer of the MLP was before 5.9."""
        return Shelf(dense=(self.mlp, "fc1"))

    @property
    def output(self) -> Shelf:
        """Where the second dense layer of the MLP was before 5.9."""
        return Shelf(dense=(self.mlp, "fc2"))

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        attention_mask: Float[Tensor, "..."] | None = None,
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
    ) -> Float[Tensor, "b n d"] | tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """The tokens after both branches; with `output_attentions` a pair, the attention weights second."""
        attended, weights = self.attention(
            self.layernorm_before(hidden_states), attention_mask, head_mask, output_attentions
        )
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        hidden_states = hidden_states + self.drop_path(self.dropout(self.mlp(self.layernorm_after(hidden_states))))
        return (hidden_states, weights) if output_attentions else hidden_states
