"""BEiT with the API of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import layer_norm, relative_bias, relative_index, relative_rows, resize_relative
from vitkit.transformers.configuration import PretrainedConfig, Sizes
from vitkit.transformers.families._backbone import BackboneConfig
from vitkit.transformers.families._base import (
    Classifier,
    Embeddings,
    EncoderModel,
    HeadModel,
    Options,
    finished,
    init_zeros,
    need_pixels,
)
from vitkit.transformers.families._layers import Encoder, EncoderLayer, LayerInput
from vitkit.transformers.hub import Argument
from vitkit.transformers.names import VIT, Names
from vitkit.transformers.outputs import BaseModelOutputWithPooling, MaskedLMOutput

TABLE = "relative_position_bias.relative_position_bias_table"


@dataclass(init=False, eq=False, repr=False)
class BeitConfig(BackboneConfig):
    """Configuration of a BEiT, with the attribute names of transformers."""

    model_type: ClassVar[str] = "beit"

    vocab_size: int = 8192
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
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1
    use_mean_pooling: bool = True
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255
    add_fpn: bool = False
    reshape_hidden_states: bool = True

    def __init__(self, *args: Argument, **kwargs: Argument):
        # The name in old config files.
        indices = kwargs.pop("segmentation_indices", None)
        if kwargs.get("out_indices") is None and indices is not None:
            kwargs["out_indices"] = indices
        super().__init__(*args, **kwargs)
        if self.add_fpn and len(self.out_indices) != 4:
            raise ValueError(
                "BeitConfig requires `out_indices` to be a list of exactly 4 integers when `add_fpn=True`, specifying "
                f"which features to use from the backbone, got {list(self.out_indices)}. One can use `out_indices=[3, "
                "5, 7, 11]` for a base-sized architecture."
            )


class BeitRelativePositionBias(nn.Module):
    """Table of relative position biases, resized to the grid of an image."""

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.window_size = grid
        self.relative_position_bias_table = nn.Parameter(torch.zeros(relative_rows(grid), num_heads))

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "h n n"]:
        """Returns the bias of every pair of tokens of a grid of (rows, columns)."""
        table = self.relative_position_bias_table
        if grid != self.window_size:
            table = resize_relative(table, self.window_size, grid, "bilinear")
        return relative_bias(table, relative_index(grid, device=table.device))


class BeitEmbeddings(Embeddings):
    """Embeddings of BEiT: class token and patches, with absolute positions if the config has them."""


class BeitLayer(EncoderLayer):
    """Encoder layer of BEiT. Its attention may have a relative position bias table."""

    def __init__(self, config: BeitConfig, grid: tuple[int, int], drop_path: float):
        scale = config.layer_scale_init_value if config.layer_scale_init_value > 0 else None
        super().__init__(config, key_bias=False, layer_scale=scale, drop_path=drop_path)
        if config.use_relative_position_bias:
            self.attention.attention.relative_position_bias = BeitRelativePositionBias(grid, config.num_attention_heads)

    @property
    def relative_position_bias(self) -> BeitRelativePositionBias | None:
        """The relative position bias table of the layer, or None."""
        return getattr(self.attention.attention, "relative_position_bias", None)


def _bias_of(layer: nn.Module, grid: tuple[int, int]) -> Float[Tensor, "h n n"] | None:
    """Returns the relative position bias of a layer, or None if the layer has no bias table."""
    table = getattr(layer, "relative_position_bias", None)
    return None if table is None else table(grid)


class BeitPreTrainedModel(EncoderModel):
    """Base class of `BeitModel`."""

    config_class: ClassVar[type[PretrainedConfig]] = BeitConfig
    base_model_prefix: ClassVar[str] = "beit"
    _no_split_modules: ClassVar[list[str]] = ["BeitLayer"]
    names = Names(
        VIT.layers,
        {**VIT.inside, "relative_position_bias": "attention.attention.relative_position_bias"},
        {"shared_position_bias": "encoder.relative_position_bias"},
        VIT.order,
    )

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module. Tokens, positions and bias tables are zero, LayerScale has the configured value."""
        super()._init_weights(module)
        if isinstance(module, Embeddings | BeitRelativePositionBias):
            init_zeros(*module.parameters(recurse=False))
        elif isinstance(module, BeitLayer):
            for scale in module.parameters(recurse=False):
                nn.init.constant_(scale, self.config.layer_scale_init_value)


class BeitPooler(nn.Module):
    """Pooler: the normalized mean of the patches, or the class token."""

    def __init__(self, config: BeitConfig):
        super().__init__()
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps) if config.use_mean_pooling else None

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Returns one vector per image."""
        return hidden_states[:, 0] if self.layernorm is None else self.layernorm(hidden_states[:, 1:].mean(dim=1))


@dataclass
class BeitModelOutputWithPooling(BaseModelOutputWithPooling):
    """Model output: final tokens, the pooled patches or class token, hidden states and attention weights."""


class BeitModel(BeitPreTrainedModel):
    """BEiT encoder with an optional pooler. Images may have any size."""

    def __init__(self, config: BeitConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        config = self.config
        mask_token = (1, 1, config.hidden_size) if config.use_mask_token else None
        positions = config.use_absolute_position_embeddings
        self.embeddings = BeitEmbeddings(config, mask_token=mask_token, positions=positions)
        grid, depth = self.embeddings.patch_embeddings.grid, config.num_hidden_layers
        rates = [config.drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        shared: dict[str, nn.Module] = {}
        if config.use_shared_relative_position_bias:
            shared["relative_position_bias"] = BeitRelativePositionBias(grid, config.num_attention_heads)
        self.encoder = Encoder((BeitLayer(config, grid, rate) for rate in rates), shared)
        mean = config.use_mean_pooling
        self.layernorm = nn.Identity() if mean else layer_norm(config.hidden_size, config.layer_norm_eps)
        self.pooler = BeitPooler(config) if add_pooling_layer else None
        self.post_init()

    @property
    def shared_position_bias(self) -> BeitRelativePositionBias | None:
        """The relative position bias table that all layers share, or None."""
        return getattr(self.encoder, "relative_position_bias", None)

    def biases(self, height: int, width: int) -> Sequence[LayerInput]:
        """Returns the relative position bias of every layer for an image size in pixels."""
        grid = self.embeddings.grid_of(height, width)
        shared = None if self.shared_position_bias is None else self.shared_position_bias(grid)
        own = [_bias_of(layer, grid) for layer in self.encoder.layer]
        return [LayerInput(bias=shared if bias is None else bias if shared is None else bias + shared) for bias in own]

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the tokens, the pooled patches and the outputs of the selected layers.

        Positions are always interpolated; `interpolate_pos_encoding` has no effect.
        """
        pixels = need_pixels(pixel_values)
        tokens = self.embeddings(pixels, bool_masked_pos)
        tokens, hidden_states, attentions = self.encode(tokens, options, self.biases(*pixels.shape[2:]))
        tokens = self.layernorm(tokens)
        output = BeitModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=None if self.pooler is None else self.pooler(tokens),
            hidden_states=hidden_states,
            attentions=attentions,
        )
        return finished(self, output, options)


class BeitForImageClassification(Classifier):
    """BEiT with a linear head on the mean of the patches or the class token."""

    config_class: ClassVar[type[PretrainedConfig]] = BeitConfig
    base_model_prefix: ClassVar[str] = "beit"
    base_class = BeitModel
    accepts_loss_kwargs: ClassVar[bool] = False
    _no_split_modules = BeitModel._no_split_modules

    def pooled(self, outputs: Any) -> Float[Tensor, "b d"]:
        """Returns the output of the pooler."""
        return outputs.pooler_output

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the logits (b, classes) and, if labels are given, the loss."""
        outputs = self.base_model(pixel_values, **{**options, "return_dict": True})
        return self.classify(outputs, labels, options)


class BeitForMaskedImageModeling(HeadModel):
    """BEiT with a head that predicts the visual token of every patch."""

    config_class: ClassVar[type[PretrainedConfig]] = BeitConfig
    base_model_prefix: ClassVar[str] = "beit"
    base_class = BeitModel
    _no_split_modules = BeitModel._no_split_modules

    def __init__(self, config: BeitConfig):
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.beit = BeitModel(config, add_pooling_layer=False)
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the logits (b, patches, visual tokens) and, if labels are given, the loss.

        `labels` are the visual tokens of the masked patches, in row-major order over the batch.
        """
        outputs = self.beit(pixel_values, bool_masked_pos, **{**options, "return_dict": True})
        logits = self.lm_head(self.layernorm(outputs.last_hidden_state)[:, 1:])
        loss = None
        if labels is not None:
            if bool_masked_pos is None:
                raise ValueError("labels are the visual tokens of masked patches; pass bool_masked_pos as well")
            loss = F.cross_entropy(logits[bool_masked_pos.bool()], labels)
        output = MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return finished(self, output, options)
