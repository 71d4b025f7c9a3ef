"""The encoder of the Hugging Face ViT, with the module tree of transformers 4, and the pooler."""

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.layers import DropPath, layer_norm
from vitkit.transformers.activations import make_activation
from vitkit.transformers.arguments import LayerSelection, selected_layers
from vitkit.transformers.attention import Collected, ViTAttention, run
from vitkit.transformers.checkpointing import GradientCheckpointingLayer
from vitkit.transformers.configuration import ViTConfig
from vitkit.transformers.newer_names import NewerNames
from vitkit.transformers.outputs import BaseModelOutput, LayerOutputs
from vitkit.transformers.properties import Replaceable


class ViTIntermediate(nn.Module):
    """First linear layer of the MLP, and the activation."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = make_activation(config.hidden_act)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n m"]:
        """Returns the activations of the hidden layer of the MLP."""
        return self.intermediate_act_fn(self.dense(hidden_states))


class ViTOutput(nn.Module):
    """Second linear layer of the MLP, with dropout, stochastic depth and the residual connection."""

    drop_path: DropPath | None

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path) if drop_path else None

    def forward(
        self, hidden_states: Float[Tensor, "b n m"], input_tensor: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b n d"]:
        """Returns the output tokens of the layer. `input_tensor` is the input of the residual connection."""
        return self.add(self.dense(hidden_states), input_tensor)

    def add(self, branch: Float[Tensor, "b n d"], input_tensor: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Adds the output of the MLP to the input of the residual connection."""
        branch = self.dropout(branch)
        return input_tensor + (branch if self.drop_path is None else self.drop_path(branch))


class ViTLayer(GradientCheckpointingLayer, Replaceable, NewerNames):
    """Pre-norm encoder layer: attention and MLP with residual connections.

    Computes what `vitkit.layers.Block` does, with the modules of transformers.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("output_attentions", "attentions")
    intermediate: ViTIntermediate
    output: ViTOutput

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.attention = ViTAttention(config, drop_path)
        self.intermediate = ViTIntermediate(config)
        self.output = ViTOutput(config, drop_path)
        self.layernorm_before = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.layernorm_after = layer_norm(config.hidden_size, config.layer_norm_eps)

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        head_mask: Float[Tensor, "..."] | None = None,
        output_attentions: bool = False,
        *,
        attention_mask: Float[Tensor, "..."] | None = None,
        attentions: Collected | None = None,
    ) -> Float[Tensor, "b n d"] | tuple[Float[Tensor, "b n d"], Float[Tensor, "b h n n"] | None]:
        """Returns the output tokens, or (tokens, attention weights) if `output_attentions` is True.

        The attention weights are appended to `attentions` if it is given. See `ViTSelfAttention.forward`.
        """
        collected: Collected | None = [] if output_attentions else attentions
        normed = self.layernorm_before(hidden_states)
        hidden_states = hidden_states + run(self.attention, ViTAttention, normed, head_mask, attention_mask, collected)
        normed = self.layernorm_after(hidden_states)
        if (mlp := self.observed_mlp) is not None:
            hidden_states = self.output.add(mlp(normed), hidden_states)
        else:
            hidden_states = self.output(self.intermediate(normed), hidden_states)
        if not output_attentions:
            return hidden_states
        weights = collected[0] if collected else None
        if attentions is not None:
            attentions.append(weights)
        return hidden_states, weights


class ViTEncoder(nn.Module):
    """All layers of the encoder. With `config.drop_path_rate`, stochastic depth grows linearly over the layers."""

    gradient_checkpointing: bool

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        # The rate grows from 0 at the first layer to the full rate at the last (Huang et al. 2016; DeiT).
        rate, last = getattr(config, "drop_path_rate", 0.0), max(config.num_hidden_layers - 1, 1)
        self.layer = nn.ModuleList(ViTLayer(config, rate * i / last) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Float[Tensor, "b n d"],
        head_mask: Sequence[Tensor | None] | Tensor | None = None,
        output_attentions: LayerSelection = False,
        output_hidden_states: LayerSelection = False,
        return_dict: bool = True,
        *,
        attention_mask: Float[Tensor, "..."] | None = None,
    ) -> BaseModelOutput | tuple[Tensor | LayerOutputs, ...]:
        """Returns the tokens after the last layer, before the final norm, and the outputs of the selected layers.

        `head_mask` has one mask per layer.
        """
        depth = len(self.layer)
        attention_layers = selected_layers(output_attentions, depth, "output_attentions")
        state_layers = selected_layers(output_hidden_states, depth + 1, "output_hidden_states")
        states: list[Tensor | None] = [hidden_states if 0 in state_layers else None]
        attentions: list[Tensor | None] = []
        for index, layer in enumerate(self.layer):
            mask = None if head_mask is None else head_mask[index]
            collected: Collected | None = [] if index in attention_layers else None
            hidden_states = run(layer, ViTLayer, hidden_states, mask, attention_mask, collected)
            attentions.append(collected[0] if collected else None)
            states.append(hidden_states if index + 1 in state_layers else None)
        output = BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states) if state_layers else None,
            attentions=tuple(attentions) if attention_layers else None,
        )
        return output if return_dict else output.to_tuple()


class ViTPooler(nn.Module):
    """Pooler: a linear layer and an activation, applied to the class token."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size or config.hidden_size)
        self.activation = make_activation(config.pooler_act)

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b k"]:
        """Returns one vector per image, computed from the class token."""
        return self.activation(self.dense(hidden_states[:, 0]))
