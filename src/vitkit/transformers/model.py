"""`ViTModel`: the encoder without a head."""

from collections.abc import Generator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkit.layers import layer_norm
from vitkit.transformers.arguments import chosen, either_order, head_masks, token_bias
from vitkit.transformers.attention import ViTAttention
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.embeddings import ViTEmbeddings
from vitkit.transformers.layer import ViTLayer, make_activation
from vitkit.transformers.names import Shelf, accept_both, other_names, write_chosen
from vitkit.transformers.outputs import BaseModelOutputWithPooling
from vitkit.transformers.pretrained import ViTPreTrainedModel

# True for all, or the numbers of some; None leaves it to the config.
Which = bool | int | Sequence[int] | None


class ViTPooler(nn.Module):
    """A dense layer and an activation on the class token."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size or config.hidden_size)
        self.activation = make_activation(config.pooler_act)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """One vector a picture."""
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTModel(ViTPreTrainedModel):
    """The ViT encoder with, unless switched off, a pooler; `use_mask_token` is for masked image modelling."""

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = ViTEmbeddings(config, use_mask_token)
        # Linear in depth from 0 for the first layer to the full rate for the last (Huang et al. 2016; DeiT).
        rate, last = getattr(config, "drop_path_rate", 0.0), max(config.num_hidden_layers - 1, 1)
        self.layers = nn.ModuleList(ViTLayer(config, rate * i / last) for i in range(config.num_hidden_layers))
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        # Every how many layers to recompute in the backward pass, and how; None for never.
        self.checkpointing: tuple[int, dict[str, Any]] | None = None
        self.names = "v5"
        self.register_load_state_dict_pre_hook(accept_both)
        self.register_state_dict_post_hook(write_chosen)
        self.finish()

    @property
    def encoder(self) -> Shelf:
        """Where `layer` was before transformers 5.9."""
        return Shelf(layer=(self, "layers"))

    def attention_of(self, layer: int) -> ViTAttention:
        """The attention of a layer."""
        attention = self.layers[layer].attention
        if not isinstance(attention, ViTAttention):
            raise TypeError(f"the attention of layer {layer} was replaced by a {type(attention).__name__}")
        return attention

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Generator[tuple[str, nn.Module]]:
        """Every module by its name, then layers and their renamed parts by their older names (`names.OtherName`)."""
        fresh = memo is None or self not in memo
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if fresh and remove_duplicate:
            yield from other_names(self.layers, f"{prefix}." if prefix else "")

    def modules(self, remove_duplicate: bool = True) -> Generator[nn.Module]:
        """Every module once."""
        for _, module in super().named_modules(remove_duplicate=remove_duplicate):
            yield module

    @either_order(("pixel_values", "bool_masked_pos", "interpolate_pos_encoding", "attention_mask"))
    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: Which = None,
        output_hidden_states: Which = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Tokens after the final norm and the pooled class token; what was asked for of the layers beside them.

        `bool_masked_pos` (b, patches) is true where a patch is hidden; `head_mask` and `attention_mask` as in
        `arguments.head_masks` and `arguments.token_bias`. Raises ValueError for pictures that do not fit.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        config = self.config
        weight = self.embeddings.patch_embeddings.projection.weight
        tokens = self.embeddings(pixel_values.to(weight.dtype), bool_masked_pos, interpolate_pos_encoding)
        tokens, hidden_states, attentions = self._encode(
            tokens,
            token_bias(attention_mask, tokens.dtype),
            head_masks(head_mask, config, tokens.dtype),
            config.output_attentions if output_attentions is None else output_attentions,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )
        normed = self.layernorm(tokens)
        output = BaseModelOutputWithPooling(
            last_hidden_state=normed,
            pooler_output=None if self.pooler is None else self.pooler(normed),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        as_output = config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()

    def _encode(
        self,
        tokens: Float[Tensor, "b n d"],
        bias: Tensor | None,
        masks: Sequence[Tensor | None],
        output_attentions: Which,
        output_hidden_states: Which,
    ) -> tuple[Tensor, tuple[Tensor | None, ...] | None, tuple[Tensor | None, ...] | None]:
        """All layers, with what was asked for of each."""
        depth = len(self.layers)
        weighed = chosen(output_attentions, depth, "output_attentions")
        kept = chosen(output_hidden_states, depth + 1, "output_hidden_states")
        states: list[Tensor | None] = [tokens if 0 in kept else None]
        attentions: list[Tensor | None] = []
        for index, layer in enumerate(self.layers):
            result = self._run(index, layer, tokens, bias, masks[index], index in weighed)
            tokens, weights = result if isinstance(result, tuple) else (result, None)
            attentions.append(weights)
            states.append(tokens if index + 1 in kept else None)
        return tokens, tuple(states) if kept else None, tuple(attentions) if weighed else None

    def _run(self, index: int, layer: nn.Module, *args: Any) -> Any:
        if self.checkpointing is None or not (self.training and torch.is_grad_enabled()):
            return layer(*args)
        every, options = self.checkpointing
        return layer(*args) if index % every else checkpoint(layer, *args, **options)
