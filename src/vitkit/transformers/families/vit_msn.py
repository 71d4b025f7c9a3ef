"""The ViT of masked Siamese networks (MSN), with the API of transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import layer_norm
from vitkit.transformers.configuration import PretrainedConfig, Sizes
from vitkit.transformers.families._base import (
    Embeddings,
    EncoderModel,
    Options,
    SizedClassifier,
    finished,
    init_zeros,
    need_pixels,
)
from vitkit.transformers.families._layers import Encoder, EncoderLayer
from vitkit.transformers.names import VIT
from vitkit.transformers.outputs import BaseModelOutput


@dataclass(init=False, eq=False, repr=False)
class ViTMSNConfig(PretrainedConfig):
    """Configuration of the ViT of MSN, with the attribute names of transformers."""

    model_type: ClassVar[str] = "vit_msn"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: Sizes = 224
    patch_size: Sizes = 16
    num_channels: int = 3
    qkv_bias: bool = True


class ViTMSNEmbeddings(Embeddings):
    """Embeddings of MSN: class token and patches, with positions."""


class ViTMSNLayer(EncoderLayer):
    """Encoder layer of MSN."""


class ViTMSNPreTrainedModel(EncoderModel):
    """Base class of `ViTMSNModel`."""

    config_class: ClassVar[type[PretrainedConfig]] = ViTMSNConfig
    base_model_prefix: ClassVar[str] = "vit"
    _no_split_modules: ClassVar[list[str]] = ["ViTMSNEmbeddings", "ViTMSNLayer"]
    names = VIT

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module. Special tokens and position embeddings are zero."""
        super()._init_weights(module)
        if isinstance(module, Embeddings):
            init_zeros(*module.parameters(recurse=False))


class ViTMSNModel(ViTMSNPreTrainedModel):
    """Encoder of MSN, without a pooler. With `use_mask_token`, patches can be replaced by a mask token."""

    def __init__(self, config: ViTMSNConfig, use_mask_token: bool = False):
        super().__init__(config)
        config = self.config
        self.embeddings = ViTMSNEmbeddings(config, mask_token=(1, 1, config.hidden_size) if use_mask_token else None)
        self.encoder = Encoder(ViTMSNLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the tokens and the outputs of the selected layers.

        Raises ValueError for an image size other than that of the config unless `interpolate_pos_encoding`.
        """
        tokens = self.embeddings(need_pixels(pixel_values), bool_masked_pos, interpolate_pos_encoding)
        tokens, hidden_states, attentions = self.encode(tokens, options)
        output = BaseModelOutput(
            last_hidden_state=self.layernorm(tokens), hidden_states=hidden_states, attentions=attentions
        )
        return finished(self, output, options)


class ViTMSNForImageClassification(SizedClassifier):
    """MSN with a linear head on the class token."""

    config_class: ClassVar[type[PretrainedConfig]] = ViTMSNConfig
    base_model_prefix: ClassVar[str] = "vit"
    base_class = ViTMSNModel
    _no_split_modules = ViTMSNModel._no_split_modules
