"""DeiT with a class token and a distillation token, with the API of transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import layer_norm
from vitkit.transformers.configuration import PretrainedConfig, Sizes, pair
from vitkit.transformers.families._base import (
    Embeddings,
    EncoderModel,
    HeadModel,
    Options,
    SizedClassifier,
    finished,
    init_zeros,
    need_pixels,
)
from vitkit.transformers.families._layers import Encoder, EncoderLayer
from vitkit.transformers.hub import Argument
from vitkit.transformers.losses import masked_loss
from vitkit.transformers.modeling import PatchesToPixels
from vitkit.transformers.modules import ViTPooler
from vitkit.transformers.names import VIT, Names
from vitkit.transformers.outputs import (
    BaseModelOutputWithPooling,
    LayerOutputs,
    MaskedImageModelingOutput,
    ModelOutput,
)


@dataclass(init=False, eq=False, repr=False)
class DeiTConfig(PretrainedConfig):
    """Configuration of a DeiT, with the attribute names of transformers."""

    model_type: ClassVar[str] = "deit"

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
    encoder_stride: Sizes = 16
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    def __init__(self, *args: Argument, **kwargs: Argument):
        super().__init__(*args, **kwargs)
        self.pooler_output_size = self.pooler_output_size or self.hidden_size


class DeiTEmbeddings(Embeddings):
    """Embeddings of DeiT: class token, distillation token and patches, all with positions."""


class DeiTLayer(EncoderLayer):
    """Encoder layer of DeiT."""


class DeiTPreTrainedModel(EncoderModel):
    """Base class of `DeiTModel`."""

    config_class: ClassVar[type[PretrainedConfig]] = DeiTConfig
    base_model_prefix: ClassVar[str] = "deit"
    _no_split_modules: ClassVar[list[str]] = ["DeiTEmbeddings", "DeiTLayer"]
    names = Names(
        VIT.layers,
        VIT.inside,
        order={**VIT.order, "embeddings": ("cls_token", "mask_token", "position_embeddings", "distillation_token")},
    )

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module. Special tokens and position embeddings are zero."""
        super()._init_weights(module)
        if isinstance(module, Embeddings):
            init_zeros(*module.parameters(recurse=False))


class DeiTModel(DeiTPreTrainedModel):
    """DeiT encoder with an optional pooler. With `use_mask_token`, patches can be replaced by a mask token."""

    def __init__(self, config: DeiTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        config = self.config
        self.embeddings = DeiTEmbeddings(
            config,
            special=("cls_token", "distillation_token"),
            mask_token=(1, 1, config.hidden_size) if use_mask_token else None,
        )
        self.encoder = Encoder(DeiTLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None  # type: ignore[arg-type]
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the tokens, the pooled class token and the outputs of the selected layers.

        Raises ValueError for an image size other than that of the config unless `interpolate_pos_encoding`.
        """
        tokens = self.embeddings(need_pixels(pixel_values), bool_masked_pos, interpolate_pos_encoding)
        tokens, hidden_states, attentions = self.encode(tokens, options)
        tokens = self.layernorm(tokens)
        pooled = None if self.pooler is None else self.pooler(tokens)
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=pooled, hidden_states=hidden_states, attentions=attentions
        )
        return finished(self, output, options)


class DeiTForImageClassification(SizedClassifier):
    """DeiT with a linear head on the class token. The distillation token has no head."""

    config_class: ClassVar[type[PretrainedConfig]] = DeiTConfig
    base_model_prefix: ClassVar[str] = "deit"
    base_class = DeiTModel
    _no_split_modules = DeiTModel._no_split_modules

    def make_base(self) -> EncoderModel:
        """Creates the model without a head."""
        return DeiTModel(self.config, add_pooling_layer=False)


@dataclass
class DeiTForImageClassificationWithTeacherOutput(ModelOutput):
    """Model output: mean of the logits of both heads, logits of each head, hidden states and attention weights."""

    logits: Tensor | None = None
    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None
    hidden_states: LayerOutputs = None
    attentions: LayerOutputs = None


class DeiTForImageClassificationWithTeacher(HeadModel):
    """DeiT with a linear head on the class token and another on the distillation token."""

    config_class: ClassVar[type[PretrainedConfig]] = DeiTConfig
    base_model_prefix: ClassVar[str] = "deit"
    base_class = DeiTModel
    _no_split_modules = DeiTModel._no_split_modules

    def __init__(self, config: DeiTConfig):
        super().__init__(config)
        self.num_labels = self.config.num_labels
        self.deit = DeiTModel(self.config, add_pooling_layer=False)
        width, labels = self.config.hidden_size, self.num_labels
        self.cls_classifier = nn.Linear(width, labels) if labels > 0 else nn.Identity()
        self.distillation_classifier = nn.Linear(width, labels) if labels > 0 else nn.Identity()
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the mean of the logits of both heads, and the logits of each head."""
        outputs = self.deit(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **{**options, "return_dict": True}
        )
        first = self.cls_classifier(outputs.last_hidden_state[:, 0])
        second = self.distillation_classifier(outputs.last_hidden_state[:, 1])
        output = DeiTForImageClassificationWithTeacherOutput(
            logits=(first + second) / 2,
            cls_logits=first,
            distillation_logits=second,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return finished(self, output, options)


class DeiTForMaskedImageModeling(HeadModel):
    """DeiT with a mask token and a decoder that predicts pixels, for masked image modeling (SimMIM)."""

    config_class: ClassVar[type[PretrainedConfig]] = DeiTConfig
    base_model_prefix: ClassVar[str] = "deit"
    base_class = DeiTModel
    _no_split_modules = DeiTModel._no_split_modules

    def __init__(self, config: DeiTConfig):
        super().__init__(config)
        config = self.config
        self.deit = DeiTModel(config, add_pooling_layer=False, use_mask_token=True)
        rows, columns = pair(config.encoder_stride)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, rows * columns * config.num_channels, kernel_size=1),
            PatchesToPixels(rows, columns),
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the reconstructed images (b, c, height, width) and, if a mask is given, the loss."""
        pixels = need_pixels(pixel_values)
        outputs = self.deit(pixels, bool_masked_pos, interpolate_pos_encoding, **{**options, "return_dict": True})
        grid = self.deit.embeddings.grid_of(*pixels.shape[2:])
        patches = rearrange(outputs.last_hidden_state[:, 2:], "b (r s) d -> b d r s", r=grid[0], s=grid[1])
        reconstruction = self.decoder(patches)
        output = MaskedImageModelingOutput(
            loss=None if bool_masked_pos is None else masked_loss(pixels, reconstruction, bool_masked_pos, grid),
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return finished(self, output, options)
