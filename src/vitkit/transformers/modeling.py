"""ViT models with the API of transformers: encoder, classifier and masked image modeling."""

from collections.abc import Generator, Sequence
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitkit.layers import layer_norm
from vitkit.transformers.configuration import ViTConfig, pair
from vitkit.transformers.hub import Argument
from vitkit.transformers.losses import classification_loss, masked_loss
from vitkit.transformers.modules import ViTAttention, ViTEmbeddings, ViTLayer, make_activation
from vitkit.transformers.names import (
    AliasGroup,
    accept_both_formats,
    accept_both_orders,
    attention_bias,
    head_masks,
    module_aliases,
    selected_layers,
    write_name_format,
)
from vitkit.transformers.outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    LayerOutputs,
    MaskedImageModelingOutput,
)
from vitkit.transformers.pretrained import ViTPreTrainedModel

# Layers whose outputs are returned: all or none (bool), one index, or several; None uses the config.
LayerSelection = bool | int | Sequence[int] | None


class ViTPooler(nn.Module):
    """Pooler: a linear layer and an activation, applied to the class token."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size or config.hidden_size)
        self.activation = make_activation(config.pooler_act)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """Returns one vector per image, computed from the class token."""
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTModel(ViTPreTrainedModel):
    """ViT encoder with an optional pooler. With `use_mask_token`, patches can be replaced by a mask token."""

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = ViTEmbeddings(config, use_mask_token)
        # The rate grows linearly from 0 at the first layer to the full rate at the last (Huang et al. 2016; DeiT).
        rate, last = getattr(config, "drop_path_rate", 0.0), max(config.num_hidden_layers - 1, 1)
        self.layers = nn.ModuleList(ViTLayer(config, rate * i / last) for i in range(config.num_hidden_layers))
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        # Activation checkpointing: every how many layers, and options of torch.utils.checkpoint; None if disabled.
        self.checkpointing: tuple[int, dict[str, Argument]] | None = None
        self._name_format = "v5"
        self.register_load_state_dict_pre_hook(accept_both_formats)
        self.register_state_dict_post_hook(write_name_format)
        self.post_init()

    @property
    def encoder(self) -> AliasGroup:
        """Alias of the module that contained `layer` before transformers 5.9."""
        return AliasGroup(layer=(self, "layers"))

    def attention_of(self, layer: int) -> ViTAttention:
        """Returns the attention module of a layer. Raises TypeError if the module was replaced."""
        attention = self.layers[layer].attention
        if not isinstance(attention, ViTAttention):
            raise TypeError(f"the attention of layer {layer} is a {type(attention).__name__}; expected a ViTAttention")
        return attention

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Generator[tuple[str, nn.Module]]:
        """Yields all modules, then aliases of the layers under their transformers 4 names."""
        first_visit = memo is None or self not in memo
        yield from super().named_modules(memo, prefix, remove_duplicate)
        if first_visit and remove_duplicate:
            yield from module_aliases(self.layers, f"{prefix}." if prefix else "")

    def modules(self, remove_duplicate: bool = True) -> Generator[nn.Module]:
        """Yields every module once, without the aliases of `named_modules`."""
        for _, module in super().named_modules(remove_duplicate=remove_duplicate):
            yield module

    @accept_both_orders(("pixel_values", "bool_masked_pos", "interpolate_pos_encoding", "attention_mask"))
    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Tensor | None = None,
        head_mask: Tensor | None = None,
        output_attentions: LayerSelection = None,
        output_hidden_states: LayerSelection = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Tensor | LayerOutputs, ...]:
        """Returns the tokens, the pooled class token and the outputs of the selected layers.

        `bool_masked_pos` (b, patches) is true for masked patches; see `names.head_masks` and `names.attention_bias` for
        the shapes of `head_mask` and `attention_mask`. Raises ValueError for unsupported image sizes.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        config = self.config
        weight = self.embeddings.patch_embeddings.projection.weight
        tokens = self.embeddings(pixel_values.to(weight.dtype), bool_masked_pos, interpolate_pos_encoding)
        tokens, hidden_states, attentions = self._encode(
            tokens,
            attention_bias(attention_mask, tokens.dtype),
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
        output_attentions: LayerSelection,
        output_hidden_states: LayerSelection,
    ) -> tuple[Tensor, tuple[Tensor | None, ...] | None, tuple[Tensor | None, ...] | None]:
        """Applies all layers. Returns the tokens, the selected hidden states and the selected attention weights."""
        depth = len(self.layers)
        attention_layers = selected_layers(output_attentions, depth, "output_attentions")
        state_layers = selected_layers(output_hidden_states, depth + 1, "output_hidden_states")
        states: list[Tensor | None] = [tokens if 0 in state_layers else None]
        attentions: list[Tensor | None] = []
        for index, layer in enumerate(self.layers):
            result = self._run(index, layer, tokens, bias, masks[index], index in attention_layers)
            tokens, weights = result if isinstance(result, tuple) else (result, None)
            attentions.append(weights)
            states.append(tokens if index + 1 in state_layers else None)
        return tokens, tuple(states) if state_layers else None, tuple(attentions) if attention_layers else None

    def _run(self, index: int, layer: nn.Module, *args: object) -> Tensor | tuple[Tensor, Tensor]:
        if self.checkpointing is None or not (self.training and torch.is_grad_enabled()):
            return layer(*args)
        every, options = self.checkpointing
        return layer(*args) if index % every else checkpoint(layer, *args, **options)


class ViTForImageClassification(ViTPreTrainedModel):
    """ViT with a linear head on the class token, for classification or regression.

    With `num_labels=0` it returns the class token.
    """

    # Makes Trainer pass num_items_in_batch, the number of images of a step over all accumulated batches.
    accepts_loss_kwargs: ClassVar[bool] = True

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @accept_both_orders(("pixel_values", "labels", "interpolate_pos_encoding", "attention_mask"))
    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        head_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: LayerSelection = None,
        output_hidden_states: LayerSelection = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ImageClassifierOutput | tuple[Tensor | LayerOutputs, ...]:
        """Returns the logits (b, classes) and, if labels are given, the loss. See `ViTModel.forward`."""
        outputs = self.vit(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            return_dict=True,
        )
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        loss = None if labels is None else classification_loss(logits, labels, self.config, num_items_in_batch)
        output = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        as_output = self.config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()


class PatchesToPixels(nn.Module):
    """Rearranges the pixel values predicted for each patch to images, like a rectangular `nn.PixelShuffle`."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.rows = rows
        self.columns = columns

    def forward(self, x: Tensor) -> Tensor:
        """Rearranges (b, channels * rows * columns, r, s) to (b, channels, r * rows, s * columns)."""
        return rearrange(x, "b (c p q) r s -> b c (r p) (s q)", p=self.rows, q=self.columns)


class ViTForMaskedImageModeling(ViTPreTrainedModel):
    """ViT with a mask token and a decoder that predicts pixels, for masked image modeling (SimMIM).

    The decoder predicts `encoder_stride` squared pixels per patch. Images and patches need not be square; with
    interpolated positions, images may have any size.
    """

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.vit = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
        rows, columns = pair(config.encoder_stride)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, rows * columns * config.num_channels, kernel_size=1),
            PatchesToPixels(rows, columns),
        )
        self.post_init()

    @accept_both_orders(("pixel_values", "bool_masked_pos", "interpolate_pos_encoding", "attention_mask"))
    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        head_mask: Tensor | None = None,
        output_attentions: LayerSelection = None,
        output_hidden_states: LayerSelection = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> MaskedImageModelingOutput | tuple[Tensor | LayerOutputs, ...]:
        """Returns the reconstructed images (b, c, height, width) and, if a mask is given, the loss.

        Other arguments are those of `ViTModel.forward`. Raises ValueError for a mask if `encoder_stride` differs from
        `patch_size`.
        """
        patch, stride = self.config.patch_size, self.config.encoder_stride
        if bool_masked_pos is not None and pair(patch) != pair(stride):
            raise ValueError(
                "When `bool_masked_pos` is provided, `patch_size` must be equal to `encoder_stride` to ensure that the "
                "reconstructed image has the same dimensions as the input. "
                f"Got `patch_size` = {patch} and `encoder_stride` = {stride}."
            )
        outputs = self.vit(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            return_dict=True,
        )
        grid = self.vit.embeddings.patch_embeddings.grid_of(*pixel_values.shape[2:])  # type: ignore[union-attr]
        patches = rearrange(outputs.last_hidden_state[:, 1:], "b (r s) d -> b d r s", r=grid[0], s=grid[1])
        pixels = self.decoder(patches)
        loss = None
        if bool_masked_pos is not None:
            loss = masked_loss(pixel_values, pixels, bool_masked_pos, grid)  # type: ignore[arg-type]
        output = MaskedImageModelingOutput(
            loss=loss, reconstruction=pixels, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        as_output = self.config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()
