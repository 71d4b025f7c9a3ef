"""ViT models with the API of transformers: encoder, classifier and masked image modeling."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import layer_norm
from vitkit.transformers.arguments import LayerSelection, accept_both_orders, attention_bias, head_masks
from vitkit.transformers.attention import ViTAttention
from vitkit.transformers.configuration import ViTConfig, pair
from vitkit.transformers.embeddings import ViTEmbeddings
from vitkit.transformers.losses import classification_loss, masked_loss
from vitkit.transformers.modules import ViTEncoder, ViTPooler
from vitkit.transformers.names import VIT
from vitkit.transformers.outputs import (
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    LayerOutputs,
    MaskedImageModelingOutput,
)
from vitkit.transformers.pretrained import ViTPreTrainedModel


class ViTModel(ViTPreTrainedModel):
    """ViT encoder with an optional pooler. With `use_mask_token`, patches can be replaced by a mask token."""

    names = VIT

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.embeddings = ViTEmbeddings(config, use_mask_token)
        self.encoder = ViTEncoder(config)
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, `encoder.layer`, under their name in transformers 5.9 and later."""
        return self.encoder.layer

    @layers.setter
    def layers(self, layers: nn.ModuleList) -> None:
        """Replaces the layers."""
        self.encoder.layer = layers

    def attention_of(self, layer: int) -> ViTAttention:
        """Returns the attention module of a layer. Raises TypeError if it is not a `ViTAttention`."""
        attention = self.encoder.layer[layer].attention
        if not isinstance(attention, ViTAttention):
            raise TypeError(f"the attention of layer {layer} is a {type(attention).__name__}; expected a ViTAttention")
        return attention

    def get_head_mask(
        self, head_mask: Tensor | Sequence[Tensor | None] | None, num_hidden_layers: int | None = None
    ) -> Sequence[Tensor | None]:
        """Splits a head mask into one mask per layer. See `arguments.head_masks`."""
        return head_masks(head_mask, self.config, self.dtype)

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

        `bool_masked_pos` (b, patches) is true for masked patches; see `arguments.head_masks` and
        `arguments.attention_bias` for the shapes of `head_mask` and `attention_mask`. Raises ValueError for unsupported
        image sizes.
        """
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        config = self.config
        tokens = self.embeddings(
            pixel_values.to(self._input_dtype(pixel_values)), bool_masked_pos, interpolate_pos_encoding
        )
        # An encoder written for transformers 4.57 takes no other arguments, so they are passed only if needed.
        options: dict[str, object] = {
            "output_attentions": config.output_attentions if output_attentions is None else output_attentions,
            "output_hidden_states": config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states,
            "attention_mask": attention_bias(attention_mask, tokens.dtype, tokens.shape[1]),
        }
        needed = {name: value for name, value in options.items() if value is not None and value is not False}
        masks = None if head_mask is None else head_masks(head_mask, config, tokens.dtype)
        encoded = self.encoder(tokens, head_mask=masks, **needed)
        normed = self.layernorm(encoded if isinstance(encoded, Tensor) else encoded[0])
        output = BaseModelOutputWithPooling(
            last_hidden_state=normed,
            pooler_output=None if self.pooler is None else self.pooler(normed),
            hidden_states=getattr(encoded, "hidden_states", None),
            attentions=getattr(encoded, "attentions", None),
        )
        as_output = config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()

    def _input_dtype(self, pixel_values: Tensor) -> torch.dtype:
        """Returns the dtype of the patch projection, or that of the images if the projection has no weight."""
        projection = getattr(self.embeddings.patch_embeddings, "projection", None)
        weight = getattr(projection, "weight", None)
        return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else pixel_values.dtype


class ViTForImageClassification(ViTPreTrainedModel):
    """ViT with a linear head on the class token, for classification or regression.

    With `num_labels=0` it returns the class token.
    """

    # Makes Trainer pass num_items_in_batch, the number of images of a step over all accumulated batches.
    accepts_loss_kwargs: ClassVar[bool] = True

    _loss_function: Callable[..., Tensor] = staticmethod(classification_loss)

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
        loss = None
        if labels is not None:
            items = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(labels, logits, self.config, **items)
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
            nn.PixelShuffle(rows) if rows == columns else PatchesToPixels(rows, columns),
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
        grid = self.vit.embeddings.grid_of(*pixel_values.shape[2:])  # type: ignore[union-attr]
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
