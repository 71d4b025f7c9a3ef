"""Encoder layers of several families, with the module names of transformers 4, implemented with vitkit's layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import DropPath, PositionInput, Taps, attention_weights, layer_norm, run_blocks
from vitkit.layers.attention import Attention
from vitkit.transformers.activations import make_activation
from vitkit.transformers.checkpointing import GradientCheckpointingLayer
from vitkit.transformers.configuration import PretrainedConfig
from vitkit.transformers.newer_names import NewerNames
from vitkit.transformers.properties import ProjectionNames
from vitkit.transformers.pruning import Projections, prune


@dataclass(frozen=True, kw_only=True)
class LayerInput(PositionInput):
    """Inputs of one encoder layer other than the tokens. Inputs that the layer does not use are None.

    `head_mask` multiplies the attention weights, and the weights are appended to `record`.
    """

    head_mask: Tensor | None = None
    record: list[Tensor] | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        """The inputs that are not None, by name, as keyword arguments of `forward`."""
        given = {name: getattr(self, name) for name in ("bias", "rotation", "head_mask", "record")}
        return {name: value for name, value in given.items() if value is not None}


class SelfAttention(nn.Module):
    """Query, key and value projections. `bias` enables the biases of query and value, `key_bias` that of key."""

    def __init__(self, width: int, *, bias: bool, key_bias: bool):
        super().__init__()
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=key_bias)
        self.value = nn.Linear(width, width, bias=bias)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n three_d"]:
        """Returns queries, keys and values, concatenated along the last axis."""
        return torch.cat([self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)], dim=-1)


class Projection(nn.Module):
    """A linear layer and dropout."""

    def __init__(self, width: int, out: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(width, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """Applies the linear layer and dropout to each token."""
        return self.dropout(self.dense(hidden_states))


class NamedAttention(Attention):
    """vitkit's attention with separate query, key and value projections. A subclass registers the projections.

    With `_attn_implementation` "eager" or a head mask, the attention weights are computed explicitly, so that gradients
    flow through the recorded weights.
    """

    # The parts of vitkit's attention that these families do not have.
    qkv = q_bias = v_bias = relative_position_bias_table = relative_positions = None  # type: ignore[assignment]
    q_norm = k_norm = nn.Identity()

    def __init__(self, config: PretrainedConfig, num_heads: int, width: int, dropout: float):
        nn.Module.__init__(self)
        if width % num_heads:
            raise ValueError(f"The hidden size {width} is not a multiple of the number of attention heads {num_heads}.")
        self.config: Any = config
        self.num_attention_heads = self.num_heads = num_heads
        self.dropout = dropout

    def forward(  # type: ignore[override]
        self,
        hidden_states: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        rotation: Float[Tensor, "2 p k"] | None = None,
        head_mask: Float[Tensor, "..."] | None = None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens after attention and output projection, and appends the attention weights to `record`."""
        if self.config._attn_implementation != "eager" and head_mask is None:
            if record is not None:
                record.append(self.weights(hidden_states, bias, rotation).to(hidden_states.dtype))
            return super().forward(hidden_states, bias, rotation)
        q, k, v = self.heads(hidden_states, rotation)
        weights = F.dropout(attention_weights(q, k, bias).to(q.dtype), self.dropout, training=self.training)
        weights = weights if head_mask is None else weights * head_mask
        if record is not None:
            record.append(weights)
        return self.proj(rearrange(weights @ v, "b h n k -> b n (h k)"))


class V4Attention(NamedAttention, ProjectionNames):
    """Attention with the module names of transformers 4: `attention.query` and `output.dense`."""

    def __init__(self, config: PretrainedConfig, *, key_bias: bool = True):
        settings: Any = config
        width, heads, bias = settings.hidden_size, settings.num_attention_heads, getattr(config, "qkv_bias", True)
        super().__init__(config, heads, width, settings.attention_probs_dropout_prob)
        self.attention = SelfAttention(width, bias=bias, key_bias=bias and key_bias)
        self.output = Projection(width, width, settings.hidden_dropout_prob)
        self.head_dim = width // heads
        self.pruned_heads: set[int] = set()

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Removes attention heads, given by their original indices. See `pruning.prune`."""
        inner = self.attention
        projections = Projections(inner.query, inner.key, inner.value, self.output.dense)
        remaining = prune(projections, heads, self.pruned_heads, self.config.num_attention_heads, self.head_dim)
        self.num_attention_heads = self.num_heads = len(remaining)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Float[Tensor, "b n d"],
        bias: Float[Tensor, "..."] | None = None,
        **inputs: Any,
    ) -> Float[Tensor, "b n d"]:
        """Returns the tokens after attention and output projection. The bias of pruned heads is ignored."""
        total = self.config.num_attention_heads
        if bias is not None and self.pruned_heads and bias.shape[-3] == total:
            bias = bias[..., [head for head in range(total) if head not in self.pruned_heads], :, :]
        return super().forward(hidden_states, bias, **inputs)

    def _project(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b three_d"]:
        return self.attention(x)

    @property
    def proj(self) -> nn.Module:  # type: ignore[override]
        """The output projection."""
        return self.output


class Intermediate(nn.Module):
    """The first linear layer of the MLP and the activation."""

    def __init__(self, width: int, hidden: int, act: str):
        super().__init__()
        self.dense = nn.Linear(width, hidden)
        self.intermediate_act_fn = make_activation(act)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """Applies the linear layer and the activation to each token."""
        return self.intermediate_act_fn(self.dense(hidden_states))


class EncoderLayer(GradientCheckpointingLayer, NewerNames):
    """Pre-norm encoder layer of DeiT, BEiT, MAE and MSN: attention and MLP with residual connections.

    `layer_scale` is the initial value of `lambda_1` and `lambda_2`, which scale the branches; None for none.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        key_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        settings: Any = config
        width, eps = settings.hidden_size, settings.layer_norm_eps
        self.attention = V4Attention(config, key_bias=key_bias)
        self.intermediate = Intermediate(width, settings.intermediate_size, settings.hidden_act)
        self.output = Projection(settings.intermediate_size, width, settings.hidden_dropout_prob)
        self.layernorm_before = layer_norm(width, eps)
        self.layernorm_after = layer_norm(width, eps)
        self.drop_path = DropPath(drop_path)
        scales = (None, None) if layer_scale is None else (torch.full((width,), layer_scale) for _ in range(2))
        self.lambda_1, self.lambda_2 = (None if scale is None else nn.Parameter(scale) for scale in scales)

    def forward(self, hidden_states: Float[Tensor, "b n d"], **inputs: Any) -> Float[Tensor, "b n d"]:
        """Returns the output tokens. `inputs` are the fields of `LayerInput`."""
        attended = self.attention(self.layernorm_before(hidden_states), **inputs)
        hidden_states = hidden_states + self.drop_path(_scaled(attended, self.lambda_1))
        normed, mlp = self.layernorm_after(hidden_states), self.observed_mlp
        changed = self.output(self.intermediate(normed)) if mlp is None else self.output.dropout(mlp(normed))
        return hidden_states + self.drop_path(_scaled(changed, self.lambda_2))


def _scaled(branch: Float[Tensor, "b n d"], scale: Float[Tensor, " d"] | None) -> Float[Tensor, "b n d"]:
    return branch if scale is None else branch * scale


class LayerScale(nn.Module):
    """Trainable scale `lambda1` for each channel of a residual branch."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.initial = initial
        self.lambda1 = nn.Parameter(torch.full((width,), initial))

    def forward(self, hidden_state: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Multiplies each channel by its scale."""
        return hidden_state * self.lambda1


class DinoLayer(GradientCheckpointingLayer):
    """Pre-norm encoder layer of DINOv2 and DINOv3, with LayerScale after attention and MLP."""

    def __init__(self, config: PretrainedConfig, attention: NamedAttention, mlp: nn.Module):
        super().__init__()
        settings: Any = config
        width, eps = settings.hidden_size, settings.layer_norm_eps
        self.norm1 = layer_norm(width, eps)
        self.attention = attention
        self.layer_scale1 = LayerScale(width, settings.layerscale_value)
        self.drop_path = DropPath(settings.drop_path_rate)
        self.norm2 = layer_norm(width, eps)
        self.mlp = mlp
        self.layer_scale2 = LayerScale(width, settings.layerscale_value)

    def forward(self, hidden_states: Float[Tensor, "b n d"], **inputs: Any) -> Float[Tensor, "b n d"]:
        """Returns the output tokens. `inputs` are the fields of `LayerInput`."""
        attended = self.attention(self.norm1(hidden_states), **inputs)
        hidden_states = hidden_states + self.drop_path(self.layer_scale1(attended))
        return hidden_states + self.drop_path(self.layer_scale2(self.mlp(self.norm2(hidden_states))))


class Encoder(nn.Module):
    """Encoder layers, as the attribute `layer`. `first` maps names to modules registered before it."""

    def __init__(self, layers: Iterable[nn.Module], first: Mapping[str, nn.Module] | None = None):
        super().__init__()
        for name, module in (first or {}).items():
            self.add_module(name, module)
        self.layer = nn.ModuleList(layers)

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        inputs: Iterable[LayerInput] | None = None,
        taps: Taps | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Runs the tokens through all layers, with one `LayerInput` per layer. `taps` collects outputs of layers."""
        inputs = [LayerInput()] * len(self.layer) if inputs is None else inputs
        return run_blocks(self.layer, hidden_states, inputs, taps=taps)
