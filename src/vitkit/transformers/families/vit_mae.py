"""Masked autoencoders (MAE): encoder, and encoder with decoder for pre-training, with the API of transformers."""

import copy
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitkit.layers import layer_norm, resize_positions, sincos2d
from vitkit.transformers.arguments import LayerSelection, selected_layers
from vitkit.transformers.configuration import PretrainedConfig, Sizes, pair
from vitkit.transformers.families._base import (
    Embeddings,
    EncoderModel,
    HeadModel,
    Options,
    finished,
    need_pixels,
)
from vitkit.transformers.families._layers import Encoder, EncoderLayer
from vitkit.transformers.names import LAYER_ORDER, VIT, Names
from vitkit.transformers.outputs import LayerOutputs, ModelOutput


@dataclass(init=False, eq=False, repr=False)
class ViTMAEConfig(PretrainedConfig):
    """Configuration of an MAE, with the attribute names of transformers."""

    model_type: ClassVar[str] = "vit_mae"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Sizes = 224
    patch_size: Sizes = 16
    num_channels: int = 3
    qkv_bias: bool = True
    decoder_num_attention_heads: int = 16
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_intermediate_size: int = 2048
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False


@dataclass
class ViTMAEModelOutput(ModelOutput):
    """Model output: tokens of the visible patches, the mask (1 for masked), `ids_restore`, and layer outputs."""

    last_hidden_state: Tensor | None = None
    mask: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class ViTMAEDecoderOutput(ModelOutput):
    """Decoder output: the predicted pixels (b, patches, pixels of a patch), and layer outputs."""

    logits: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


@dataclass
class ViTMAEForPreTrainingOutput(ModelOutput):
    """Model output: loss, predicted pixels, the mask (1 for masked), `ids_restore`, and layer outputs."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


Masked = tuple[Float[Tensor, "b n d"], Float[Tensor, "b p"], Int[Tensor, "b p"]]


class ViTMAEEmbeddings(Embeddings):
    """Embeddings of MAE: class token and a random subset of the patches, with fixed sine-cosine positions."""

    def __init__(self, config: ViTMAEConfig):
        super().__init__(config)
        assert self.position_embeddings is not None, "the embeddings have positions"
        self.position_embeddings.requires_grad_(False)
        self.dropout = nn.Identity()

    def forward(  # type: ignore[override]
        self,
        pixel_values: Float[Tensor, "b c height width"],
        noise: Float[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
    ) -> Masked:
        """Returns the visible tokens, the mask, and for each patch its index in the shuffled order."""
        patches = self.patches(pixel_values, interpolate_pos_encoding)
        positions = self.positions(*pixel_values.shape[2:])
        assert positions is not None, "the embeddings have positions"
        visible, mask, restore = self.random_masking(patches + positions[:, 1:], noise)
        first = (self.cls_token + positions[:, :1]).expand(visible.shape[0], -1, -1)
        return torch.cat([first, visible], dim=1), mask, restore

    def random_masking(self, sequence: Float[Tensor, "b p d"], noise: Float[Tensor, "b p"] | None = None) -> Masked:
        """Returns the patches with the lowest noise, the mask (1 for masked) and the indices that restore the order."""
        count, length, width = sequence.shape
        visible = int(length * (1 - self.config.mask_ratio))
        noise = torch.rand(count, length, device=sequence.device) if noise is None else noise
        shuffled = noise.argsort(dim=1).to(sequence.device)
        restore = shuffled.argsort(dim=1)
        chosen = sequence.gather(1, repeat(shuffled[:, :visible], "b p -> b p d", d=width))
        mask = torch.ones(count, length, device=sequence.device)
        mask[:, :visible] = 0
        return chosen, mask.gather(1, restore), restore


class ViTMAELayer(EncoderLayer):
    """Encoder or decoder layer of MAE."""


def _init_positions(table: Float[Tensor, "1 n d"], grid: tuple[int, int]) -> None:
    """Fills a position embedding table with sine-cosine values, and with zeros for the class token."""
    table.zero_()
    table[0, 1:].copy_(sincos2d(grid, table.shape[2], endpoint=False))


class ViTMAEPreTrainedModel(EncoderModel):
    """Base class of `ViTMAEModel`."""

    config_class: ClassVar[type[PretrainedConfig]] = ViTMAEConfig
    base_model_prefix: ClassVar[str] = "vit"
    _no_split_modules: ClassVar[list[str]] = ["ViTMAEEmbeddings", "ViTMAELayer", "ViTMAEDecoder"]
    names = VIT

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module: sine-cosine positions, patch projection (Xavier uniform), class token (normal)."""
        super()._init_weights(module)
        if isinstance(module, ViTMAEEmbeddings):
            assert module.position_embeddings is not None, "the embeddings have positions"
            _init_positions(module.position_embeddings, module.patch_embeddings.grid)
            nn.init.xavier_uniform_(module.patch_embeddings.projection.weight.flatten(1))
            nn.init.normal_(module.cls_token, std=self.config.initializer_range)


class ViTMAEModel(ViTMAEPreTrainedModel):
    """MAE encoder, which runs on a random subset of the patches."""

    def __init__(self, config: ViTMAEConfig):
        super().__init__(config)
        config = self.config
        self.embeddings = ViTMAEEmbeddings(config)
        self.encoder = Encoder(ViTMAELayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        noise: Float[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the tokens of the visible patches, the mask, and the outputs of the selected layers.

        The patches with the most `noise` are masked; by default the noise is random. Raises ValueError for an image
        size other than that of the config unless `interpolate_pos_encoding`.
        """
        tokens, mask, restore = self.embeddings(need_pixels(pixel_values), noise, interpolate_pos_encoding)
        tokens, hidden_states, attentions = self.encode(tokens, options)
        output = ViTMAEModelOutput(
            last_hidden_state=self.layernorm(tokens),
            mask=mask,
            ids_restore=restore,
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return finished(self, output, options)


class ViTMAEDecoder(nn.Module):
    """Decoder of MAE, which predicts the pixels of every patch from the encoded visible patches."""

    def __init__(self, config: ViTMAEConfig, num_patches: int):
        super().__init__()
        own = copy.deepcopy(config)
        own.hidden_size, own.intermediate_size = config.decoder_hidden_size, config.decoder_intermediate_size
        own.num_hidden_layers = config.decoder_num_hidden_layers
        own.num_attention_heads = config.decoder_num_attention_heads
        self.config = own
        width, rows_columns = own.hidden_size, pair(config.patch_size)
        self.decoder_embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, width), requires_grad=False)
        self.decoder_layers = nn.ModuleList(ViTMAELayer(own) for _ in range(own.num_hidden_layers))
        self.decoder_norm = layer_norm(width, own.layer_norm_eps)
        self.decoder_pred = nn.Linear(width, rows_columns[0] * rows_columns[1] * config.num_channels)

    def forward(
        self,
        hidden_states: Float[Tensor, "b m d"],
        ids_restore: Int[Tensor, "b p"],
        interpolate_pos_encoding: bool | None = None,
        *,
        output_attentions: LayerSelection = None,
        output_hidden_states: LayerSelection = None,
    ) -> ViTMAEDecoderOutput:
        """Returns the predicted pixels of all patches and the outputs of the selected decoder layers.

        With `interpolate_pos_encoding`, position embeddings are resized along the sequence of patches, as in
        transformers.
        Hidden state 0 is the input of the first layer.
        """
        depth = len(self.decoder_layers)
        weights_of = selected_layers(output_attentions, depth, "output_attentions")
        states_of = selected_layers(output_hidden_states, depth + 1, "output_hidden_states")
        x = self.decoder_embed(hidden_states)
        masked = self.mask_token.expand(x.shape[0], ids_restore.shape[1] + 1 - x.shape[1], -1)
        patches = torch.cat([x[:, 1:], masked], dim=1)
        patches = patches.gather(1, repeat(ids_restore.to(x.device), "b p -> b p d", d=x.shape[2]))
        positions = self.decoder_pos_embed
        if interpolate_pos_encoding:
            native, length = positions.shape[1] - 1, patches.shape[1]
            positions = resize_positions(positions[0], (1, native), (1, length), "bicubic", special=1)[None]
        x = torch.cat([x[:, :1], patches], dim=1) + positions
        states, weights = [x if 0 in states_of else None], []
        for index, layer in enumerate(self.decoder_layers):
            record: list[Tensor] | None = [] if index in weights_of else None
            x = layer(x) if record is None else layer(x, record=record)
            states.append(x if index + 1 in states_of else None)
            weights.append(record[0] if record else None)
        return ViTMAEDecoderOutput(
            logits=self.decoder_pred(self.decoder_norm(x))[:, 1:],
            hidden_states=tuple(states) if states_of else None,
            attentions=tuple(weights) if weights_of else None,
        )


class ViTMAEForPreTraining(HeadModel):
    """MAE encoder and decoder, for pre-training."""

    config_class: ClassVar[type[PretrainedConfig]] = ViTMAEConfig
    base_model_prefix: ClassVar[str] = "vit"
    base_class = ViTMAEModel
    names = Names(
        {"decoder.decoder_layers": "decoder.decoder_layers"},
        VIT.inside,
        order={r"decoder\.decoder_layers\.\d+": LAYER_ORDER},
    )
    _no_split_modules = ViTMAEModel._no_split_modules

    def __init__(self, config: ViTMAEConfig):
        super().__init__(config)
        self.vit = ViTMAEModel(self.config)
        self.decoder = ViTMAEDecoder(self.config, self.vit.embeddings.patch_embeddings.num_patches)
        self.post_init()

    @classmethod
    def own_name(cls, name: str) -> str:
        """Converts a parameter name of transformers 5, of the decoder or of the encoder, to transformers 4.

        Files of transformers 5.23 have another prefix for the decoder layers.
        """
        return super().own_name(re.sub(r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers.", name))

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module of the decoder: sine-cosine positions and the mask token (normal)."""
        super()._init_weights(module)
        if isinstance(module, ViTMAEDecoder):
            _init_positions(module.decoder_pos_embed, self.vit.embeddings.patch_embeddings.grid)
            nn.init.normal_(module.mask_token, std=self.config.initializer_range)

    def patchify(
        self, pixel_values: Float[Tensor, "b c height width"], interpolate_pos_encoding: bool | None = False
    ) -> Float[Tensor, "b p pixels"]:
        """Returns the pixels of every patch, in the order (row, column, channel).

        Raises ValueError for images whose sides are not multiples of the patch size, and for a wrong number of
        channels.
        """
        rows, columns = pair(self.config.patch_size)
        height, width = pixel_values.shape[2:]
        square = height == width or pair(self.config.image_size) == (height, width)
        if not interpolate_pos_encoding and (not square or height % rows or width % columns):
            raise ValueError("Make sure the pixel values have a squared size that is divisible by the patch size")
        if pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                "Make sure the number of channels of the pixel values is equal to the one set in the configuration: "
                f"expected {self.config.num_channels}, got {pixel_values.shape[1]}"
            )
        if height % rows or width % columns:
            raise ValueError(
                f"the image size {height}x{width} is not a multiple of the patch size {rows}x{columns}, so the pixels "
                "at the edges have no patch; resize the images"
            )
        return rearrange(pixel_values, "b c (r p) (s q) -> b (r s) (p q c)", p=rows, q=columns)

    def unpatchify(
        self, patchified_pixel_values: Float[Tensor, "b p pixels"], original_image_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c height width"]:
        """Rearranges patches to images. Raises ValueError if the number of patches does not match (height, width).

        The image size defaults to that of the config.
        """
        rows, columns = pair(self.config.patch_size)
        height, width = pair(self.config.image_size) if original_image_size is None else original_image_size
        grid = height // rows, width // columns
        if grid[0] * grid[1] != patchified_pixel_values.shape[1]:
            raise ValueError(
                f"The number of patches in the patchified pixel values {patchified_pixel_values.shape[1]}, does not "
                f"match the number of patches on original image {grid[0]}*{grid[1]}"
            )
        pattern = "b (r s) (p q c) -> b c (r p) (s q)"
        return rearrange(patchified_pixel_values, pattern, r=grid[0], p=rows, q=columns)

    def forward_loss(
        self,
        pixel_values: Float[Tensor, "b c height width"],
        pred: Float[Tensor, "b p pixels"],
        mask: Float[Tensor, "b p"],
        interpolate_pos_encoding: bool | None = False,
    ) -> Float[Tensor, ""]:
        """Returns the mean squared error over the masked patches.

        With `config.norm_pix_loss` the target is normalized by the mean and standard deviation of each patch.
        """
        target = self.patchify(pixel_values, interpolate_pos_encoding)
        if self.config.norm_pix_loss:
            mean, variance = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1.0e-6) ** 0.5
        loss = ((pred - target) ** 2).mean(dim=-1)
        return (loss * mask).sum() / mask.sum()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        noise: Float[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the loss, the predicted pixels of all patches, the mask, and the outputs of the selected layers."""
        pixels = need_pixels(pixel_values)
        outputs = self.vit(pixels, noise, interpolate_pos_encoding, **{**options, "return_dict": True})
        logits = self.decoder(outputs.last_hidden_state, outputs.ids_restore, interpolate_pos_encoding).logits
        output = ViTMAEForPreTrainingOutput(
            loss=self.forward_loss(pixels, logits, outputs.mask, interpolate_pos_encoding),
            logits=logits,
            mask=outputs.mask,
            ids_restore=outputs.ids_restore,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return finished(self, output, options)
