"""The ViT of DINOv3, with the API of transformers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitkit.layers import Taps, axial_rotation, check_axes, layer_norm, run_blocks
from vitkit.transformers.activations import make_activation
from vitkit.transformers.configuration import PretrainedConfig, Sizes, pair
from vitkit.transformers.families._backbone import Backbone, BackboneConfig
from vitkit.transformers.families._base import (
    EncoderModel,
    Options,
    finished,
    init_normal,
    init_zeros,
    masked,
    need_pixels,
)
from vitkit.transformers.families._layers import DinoLayer, LayerInput, LayerScale, NamedAttention
from vitkit.transformers.names import Names
from vitkit.transformers.outputs import BackboneOutput, BaseModelOutputWithPooling


@dataclass(init=False, eq=False, repr=False)
class DINOv3ViTConfig(BackboneConfig):
    """Configuration of the ViT of DINOv3, with the attribute names of transformers."""

    model_type: ClassVar[str] = "dinov3_vit"

    patch_size: Sizes = 16
    hidden_size: int = 384
    intermediate_size: int = 1536
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    hidden_act: str = "gelu"
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0
    image_size: Sizes = 224
    num_channels: int = 3
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_gated_mlp: bool = False
    num_register_tokens: int = 0
    pos_embed_shift: float | None = None
    pos_embed_jitter: float | None = None
    pos_embed_rescale: float | None = 2.0
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True


class DINOv3ViTEmbeddings(nn.Module):
    """Embeddings of DINOv3: class token, register tokens and patches, without positions."""

    def __init__(self, config: Any):
        super().__init__()
        width, patch = config.hidden_size, pair(config.patch_size)
        self.num_channels = config.num_channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
        self.patch_embeddings = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch)

    def forward(
        self, pixel_values: Float[Tensor, "b c height width"], bool_masked_pos: Shaped[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens that are the input of the first layer: class token, registers, then patches."""
        check_axes(pixel_values)
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                "Make sure that the channel dimension of the pixel values match with the one set in the configuration."
                f" Expected {self.num_channels} but got {pixel_values.shape[1]}."
            )
        patches = self.patch_embeddings(pixel_values.to(self.patch_embeddings.weight.dtype))
        tokens = rearrange(patches, "b d r c -> b (r c) d")
        if bool_masked_pos is not None:
            tokens = masked(tokens, bool_masked_pos, self.mask_token)
        first = torch.cat([self.cls_token, self.register_tokens], dim=1)
        return torch.cat([first.expand(tokens.shape[0], -1, -1), tokens], dim=1)


class DINOv3ViTAttention(NamedAttention):
    """Attention of DINOv3, which rotates the queries and keys of the patches."""

    def __init__(self, config: Any):
        width = config.hidden_size
        super().__init__(config, config.num_attention_heads, width, config.attention_dropout)
        # In the order of transformers, because optimizer states depend on the order of parameters.
        self.k_proj = nn.Linear(width, width, bias=config.key_bias)
        self.v_proj = nn.Linear(width, width, bias=config.value_bias)
        self.q_proj = nn.Linear(width, width, bias=config.query_bias)
        self.o_proj = nn.Linear(width, width, bias=config.proj_bias)

    def _project(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b three_d"]:
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)

    @property
    def proj(self) -> nn.Module:  # type: ignore[override]
        """The output projection."""
        return self.o_proj


class DINOv3ViTMLP(nn.Module):
    """MLP of DINOv3. With `config.use_gated_mlp`, the hidden layer is multiplied by an activated gate."""

    def __init__(self, config: Any):
        super().__init__()
        width, hidden, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(width, hidden, bias=bias) if config.use_gated_mlp else None
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)
        self.act_fn = make_activation(config.hidden_act)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Applies the MLP to each token."""
        if self.gate_proj is None:
            return self.down_proj(self.act_fn(self.up_proj(x)))
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class DINOv3ViTLayer(DinoLayer):
    """Encoder layer of DINOv3."""

    def __init__(self, config: Any):
        super().__init__(config, DINOv3ViTAttention(config), DINOv3ViTMLP(config))


class DINOv3ViTPreTrainedModel(EncoderModel):
    """Base class of the DINOv3 encoders."""

    config_class: ClassVar[type[PretrainedConfig]] = DINOv3ViTConfig
    base_model_prefix: ClassVar[str] = "model"
    _no_split_modules: ClassVar[list[str]] = ["DINOv3ViTEmbeddings", "DINOv3ViTLayer"]
    names = Names({"model.layer": "layer"})

    def __init__(self, config: Any):
        super().__init__(config)
        config = self.config
        if config.hidden_size // config.num_attention_heads % 4:
            width = config.hidden_size // config.num_attention_heads
            raise ValueError(f"the head width is {width}; rotary position embeddings need a multiple of 4")
        self.embeddings = DINOv3ViTEmbeddings(config)
        self.layer = nn.ModuleList(DINOv3ViTLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.post_init()

    @property
    def model(self) -> "DINOv3ViTPreTrainedModel":
        """The model itself, with `name_format` "v5": transformers 5 stores the layers as `model.layer`.

        With "v4", it raises AttributeError, because an attribute with the name in `base_model_prefix` is a base model.
        """
        if self._name_format != "v5":
            raise AttributeError(f"{type(self).__name__} has the attribute model only with name_format='v5'")
        return self

    @property
    def encoder_layers(self) -> nn.ModuleList:
        """The encoder layers in order."""
        return self.layer

    @property
    def num_special(self) -> int:
        """Number of special tokens: the class token and the registers."""
        return 1 + self.config.num_register_tokens

    def run_layers(
        self, tokens: Float[Tensor, "b n d"], inputs: Iterable[LayerInput], taps: Taps | None
    ) -> Float[Tensor, "b n d"]:
        """Runs the tokens through all layers."""
        return run_blocks(self.layer, tokens, inputs, taps=taps)

    def grid_of(self, pixel_values: Float[Tensor, "b c height width"]) -> tuple[int, int]:
        """Returns the number of rows and columns of patches of images."""
        rows, columns = pair(self.config.patch_size)
        return pixel_values.shape[2] // rows, pixel_values.shape[3] // columns

    def rotations(self, pixel_values: Float[Tensor, "b c height width"]) -> Sequence[LayerInput]:
        """Returns the rotary embeddings of all layers. In training, applies the random shift, jitter and rescaling."""
        config, device = self.config, pixel_values.device
        shift, jitter, rescale = config.pos_embed_shift, config.pos_embed_jitter, config.pos_embed_rescale
        moved: Tensor | float = 0.0
        scale: Tensor | float = 1.0
        if self.training and shift is not None:
            moved = torch.empty((1, 2), device=device).uniform_(-shift, shift)
        if self.training and jitter is not None:
            scale = torch.empty((1, 2), device=device).uniform_(-math.log(jitter), math.log(jitter)).exp()
        if self.training and rescale is not None:
            scale = scale * torch.empty(1, device=device).uniform_(-math.log(rescale), math.log(rescale)).exp()
        head_width = config.hidden_size // config.num_attention_heads
        rotation = axial_rotation(
            self.grid_of(pixel_values), head_width, base=config.rope_theta, scale=scale, shift=moved, device=device
        )
        return [LayerInput(rotation=rotation)] * len(self.layer)

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module. Tokens are truncated normal, the mask token is zero."""
        super()._init_weights(module)
        if isinstance(module, DINOv3ViTEmbeddings):
            init_normal(self.config.initializer_range, module.cls_token)
            if self.config.num_register_tokens:
                init_normal(self.config.initializer_range, module.register_tokens)
            init_zeros(module.mask_token)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.lambda1, module.initial)


class DINOv3ViTModel(DINOv3ViTPreTrainedModel):
    """DINOv3 encoder. Images may have any size."""

    def forward(
        self,
        pixel_values: Float[Tensor, "b c height width"] | None = None,
        bool_masked_pos: Shaped[Tensor, "b p"] | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Returns the tokens, the class token and the outputs of the selected layers."""
        pixels = need_pixels(pixel_values)
        tokens = self.embeddings(pixels, bool_masked_pos)
        tokens, hidden_states, attentions = self.encode(tokens, options, self.rotations(pixels))
        tokens = self.norm(tokens)
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=tokens[:, 0], hidden_states=hidden_states, attentions=attentions
        )
        return finished(self, output, options)


@dataclass
class DINOv3ViTBackboneOutput(BackboneOutput):
    """Model output: feature maps, class tokens of the chosen stages (if enabled in the config) and layer outputs."""

    cls_tokens: tuple[Tensor, ...] | None = None


class DINOv3ViTBackbone(DINOv3ViTPreTrainedModel, Backbone):
    """DINOv3 backbone. Returns the feature maps of the stages in `config.out_features`."""

    def forward(self, pixel_values: Float[Tensor, "b c height width"] | None = None, **options: Unpack[Options]) -> Any:
        """Returns the feature maps (b, d, rows, columns) and the outputs of the selected layers.

        The final norm is applied to the last stage, and to the other stages if `config.apply_layernorm`.
        """
        pixels = need_pixels(pixel_values)
        tokens = self.embeddings(pixels)
        inputs = self.rotations(pixels)
        _, states, attentions = self.encode(tokens, {**options, "output_hidden_states": True}, inputs)
        tokens_of: Any = states
        chosen = [self.stage_names.index(name) for name in self.out_features]
        normed = [
            self.norm(tokens_of[index])
            if self.config.apply_layernorm or index + 1 == len(tokens_of)
            else tokens_of[index]
            for index in chosen
        ]
        patches = [tokens[:, self.num_special :] for tokens in normed]
        rows, columns = self.grid_of(pixels)
        if self.config.reshape_hidden_states:
            patches = [rearrange(each, "b (r c) d -> b d r c", r=rows, c=columns).contiguous() for each in patches]
        class_tokens = tuple(tokens[:, 0] for tokens in normed)
        output = DINOv3ViTBackboneOutput(
            feature_maps=tuple(patches),
            cls_tokens=class_tokens if getattr(self.config, "return_class_token", False) else None,
            hidden_states=self.chosen_states(states, options),
            attentions=attentions,
        )
        return finished(self, output, options)
