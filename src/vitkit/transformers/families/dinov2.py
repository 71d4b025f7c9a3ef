"""DINOv2 with and without register tokens, with the API of transformers."""

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.checkpoints.tensors import Tensors, fuse_pairs
from vitkit.layers import MLP, SwiGLU, layer_norm
from vitkit.transformers.activations import make_activation
from vitkit.transformers.configuration import PretrainedConfig, Sizes
from vitkit.transformers.families._backbone import Backbone, BackboneConfig
from vitkit.transformers.families._base import (
    AnySizeClassifier,
    Embeddings,
    EncoderModel,
    Options,
    finished,
    init_normal,
    init_zeros,
    need_pixels,
)
from vitkit.transformers.families._layers import DinoLayer, Encoder, LayerScale, V4Attention
from vitkit.transformers.names import ATTENTION, Names
from vitkit.transformers.outputs import BackboneOutput, BaseModelOutputWithPooling
from vitkit.transformers.properties import PropertyModule, alias

NAMES = Names(
    {"encoder.layer": "encoder.layer"},
    {**ATTENTION, "mlp.activation_fn": "mlp.act", "mlp.down_proj": "mlp.weights_out"},
    order={
        "embeddings": ("cls_token", "mask_token", "position_embeddings", "register_tokens"),
        r"encoder\.layer\.\d+\.mlp": ("gate_proj", "up_proj"),
    },
)


@dataclass(init=False, eq=False, repr=False)
class Dinov2Config(BackboneConfig):
    """Configuration of a DINOv2, with the attribute names of transformers."""

    model_type: ClassVar[str] = "dinov2"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: Sizes = 224
    patch_size: Sizes = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    use_mask_token: bool = True


@dataclass(init=False, eq=False, repr=False)
class Dinov2WithRegistersConfig(BackboneConfig):
    """Configuration of a DINOv2 with register tokens, with the attribute names of transformers."""

    model_type: ClassVar[str] = "dinov2_with_registers"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: Sizes = 224
    patch_size: Sizes = 16
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 4
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True


class Dinov2Embeddings(Embeddings):
    """Embeddings of DINOv2: class token and patches with positions, and register tokens without positions."""


class Dinov2SwiGLUFFN(SwiGLU, PropertyModule):
    """Gated MLP with the parameter names of transformers 4, `weights_in` and `weights_out`."""

    def __init__(self, width: int, hidden: int):
        nn.Module.__init__(self)
        self.weights_in = nn.Linear(width, 2 * hidden)
        self.weights_out = nn.Linear(hidden, width)
        self.dropout = nn.Identity()

    down_proj = alias("weights_out", "The output layer, under its name in transformers 5.")

    @property
    def fc1(self) -> nn.Module:  # type: ignore[override]
        """The layer that computes the gate and the value."""
        return self.weights_in

    @property
    def fc2(self) -> nn.Module:  # type: ignore[override]
        """The output layer."""
        return self.weights_out


class Dinov2MLP(MLP, PropertyModule):
    """MLP of DINOv2. Its activation `act` is `activation` in transformers 4 and `activation_fn` in 5."""

    def __init__(self, width: int, hidden: int, act: str):
        super().__init__(width, hidden)
        self.act = make_activation(act)

    @property
    def activation(self) -> nn.Module:
        """The activation."""
        return self.act

    @activation.setter
    def activation(self, module: nn.Module) -> None:
        """Replaces the activation."""
        self.act = module

    activation_fn = activation


def _mlp(config: Any) -> nn.Module:
    hidden = int(config.hidden_size * config.mlp_ratio)
    if config.use_swiglu_ffn:
        # Two thirds of the width of a plain MLP, rounded up to a multiple of 8.
        return Dinov2SwiGLUFFN(config.hidden_size, (int(hidden * 2 / 3) + 7) // 8 * 8)
    return Dinov2MLP(config.hidden_size, hidden, config.hidden_act)


class Dinov2Layer(DinoLayer):
    """Encoder layer of DINOv2. Hidden dropout applies to the embeddings and to the attention output."""

    def __init__(self, config: Any):
        super().__init__(config, V4Attention(config), _mlp(config))


class Dinov2PreTrainedModel(EncoderModel):
    """Base class of the DINOv2 encoders."""

    config_class: ClassVar[type[PretrainedConfig]] = Dinov2Config
    base_model_prefix: ClassVar[str] = "dinov2"
    _no_split_modules: ClassVar[list[str]] = ["Dinov2Embeddings", "Dinov2Layer"]
    names = NAMES

    def __init__(self, config: Any):
        super().__init__(config)
        config = self.config
        registers = getattr(config, "num_register_tokens", None)
        self.embeddings = Dinov2Embeddings(
            config,
            registers=registers,
            mask_token=(1, config.hidden_size) if getattr(config, "use_mask_token", True) else None,
            method="bicubic" if registers is None else "bicubic_antialias",
        )
        self.encoder = Encoder(Dinov2Layer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    @property
    def num_special(self) -> int:
        """Number of special tokens: the class token and the registers."""
        return 1 + getattr(self.config, "num_register_tokens", 0)

    @classmethod
    def arrange(cls, tensors: Tensors) -> Tensors:
        """Concatenates the gate and value weights of SwiGLU, which are separate in transformers 5."""
        return fuse_pairs(tensors, r"(.*\.mlp)\.gate_proj\.(weight|bias)", r"\1.up_proj.\2", r"\1.weights_in.\2")

    @classmethod
    def split_for_v5(cls, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Splits the gate and value weights of SwiGLU, which are one parameter in transformers 4.

        They are separate only in the state dict. `named_parameters` yields the fused parameters of the module tree.
        """
        state = dict(state_dict)
        state_dict.clear()
        for name, tensor in state.items():
            before, found, kind = name.partition(".mlp.weights_in.")
            parts = tensor.chunk(2) if found and name.startswith(prefix) else (tensor,)
            names = [name] if len(parts) == 1 else [f"{before}.mlp.{part}_proj.{kind}" for part in ("gate", "up")]
            state_dict.update(zip(names, parts, strict=True))

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module. Class token and positions are truncated normal, mask token and registers are zero."""
        super()._init_weights(module)
        if isinstance(module, Embeddings):
            init_normal(self.config.initializer_range, module.cls_token, module.position_embeddings)
            init_zeros(module.mask_token, getattr(module, "register_tokens", None))
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.lambda1, module.initial)


class Dinov2Model(Dinov2PreTrainedModel):
    """DINOv2 encoder. Images may have any size."""

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the tokens, the class token and the outputs of the selected layers."""
        tokens = self.embeddings(need_pixels(pixel_values), bool_masked_pos)
        tokens, hidden_states, attentions = self.encode(tokens, options)
        tokens = self.layernorm(tokens)
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=tokens[:, 0], hidden_states=hidden_states, attentions=attentions
        )
        return finished(self, output, options)


class Dinov2ForImageClassification(AnySizeClassifier):
    """DINOv2 with a linear head on the class token and the mean of the patches, concatenated."""

    config_class: ClassVar[type[PretrainedConfig]] = Dinov2Config
    base_model_prefix: ClassVar[str] = "dinov2"
    base_class: ClassVar[type[EncoderModel]] = Dinov2Model
    pooled_widths: ClassVar[int] = 2
    _no_split_modules = Dinov2Model._no_split_modules

    def pooled(self, outputs: Any) -> Float[Tensor, "b d"]:
        """Returns the class token and the mean of the patches, concatenated."""
        tokens = outputs.last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, self.base_model.num_special :].mean(dim=1)], dim=1)


class Dinov2Backbone(Dinov2PreTrainedModel, Backbone):
    """DINOv2 backbone. Returns the feature maps of the stages in `config.out_features`."""

    def forward(self, pixel_values: Float[Tensor, "b c height width"] | None = None, **options: Unpack[Options]) -> Any:
        """Returns the feature maps (b, d, rows, columns) and the outputs of the selected layers."""
        pixels = need_pixels(pixel_values)
        _, states, attentions = self.encode(self.embeddings(pixels), {**options, "output_hidden_states": True})
        grid = self.embeddings.grid_of(*pixels.shape[2:])
        output = BackboneOutput(
            feature_maps=self.feature_maps(states, grid, self.num_special, self.layernorm),  # type: ignore[arg-type]
            hidden_states=self.chosen_states(states, options),
            attentions=attentions,
        )
        return finished(self, output, options)


class Dinov2WithRegistersPreTrainedModel(Dinov2PreTrainedModel):
    """Base class of the DINOv2 encoders with register tokens."""

    config_class: ClassVar[type[PretrainedConfig]] = Dinov2WithRegistersConfig
    base_model_prefix: ClassVar[str] = "dinov2_with_registers"


class Dinov2WithRegistersModel(Dinov2WithRegistersPreTrainedModel, Dinov2Model):
    """DINOv2 encoder with register tokens. Images may have any size."""


class Dinov2WithRegistersForImageClassification(Dinov2ForImageClassification):
    """DINOv2 with registers, and a linear head on the class token and the mean of the patches, concatenated."""

    config_class: ClassVar[type[PretrainedConfig]] = Dinov2WithRegistersConfig
    base_model_prefix: ClassVar[str] = "dinov2_with_registers"
    base_class: ClassVar[type[EncoderModel]] = Dinov2WithRegistersModel


class Dinov2WithRegistersBackbone(Dinov2WithRegistersPreTrainedModel, Dinov2Backbone):
    """DINOv2 backbone with register tokens. Returns the feature maps of the stages in `config.out_features`."""
