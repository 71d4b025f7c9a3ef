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
from vitkit.transformers.outputs import BaseModelOutput, LayerOutputs
from vitkit.transformers.properties import PropertyModule, Replaceable


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


class ViTMLP(PropertyModule):
    """The MLP of a layer, with the submodules of transformers 5.9 and later: `fc1`, `activation_fn` and `fc2`.

    It holds the modules of the layer's `intermediate` and `output`. A hook registered on it, or a replaced `forward`,
    takes effect in the layer.
    """

    layer: "ViTLayer"

    def __init__(self, layer: "ViTLayer"):
        super().__init__()
        self.__dict__["layer"] = layer

    def refresh(self) -> None:
        """Registers the current modules of the layer, because modules of the layer can be replaced."""
        self._modules.update(fc1=self.fc1, activation_fn=self.activation_fn, fc2=self.fc2)
        self.training = self.layer.training

    @property
    def is_observed(self) -> bool:
        """Whether the layer must call this module, because hooks are registered or `forward` is overridden."""
        hooks = (self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks)
        return any(hooks) or "forward" in self.__dict__

    @property
    def fc1(self) -> nn.Module:
        """The first linear layer, `intermediate.dense` of the layer."""
        return self.layer.intermediate.dense

    @fc1.setter
    def fc1(self, module: nn.Module) -> None:
        """Replaces the first linear layer."""
        self.layer.intermediate.dense = module  # type: ignore[assignment]
        self.refresh()

    @property
    def activation_fn(self) -> nn.Module:
        """The activation, `intermediate.intermediate_act_fn` of the layer."""
        return self.layer.intermediate.intermediate_act_fn

    @activation_fn.setter
    def activation_fn(self, module: nn.Module) -> None:
        """Replaces the activation."""
        self.layer.intermediate.intermediate_act_fn = module
        self.refresh()

    @property
    def fc2(self) -> nn.Module:
        """The second linear layer, `output.dense` of the layer."""
        return self.layer.output.dense

    @fc2.setter
    def fc2(self, module: nn.Module) -> None:
        """Replaces the second linear layer."""
        self.layer.output.dense = module  # type: ignore[assignment]
        self.refresh()

    def forward(self, hidden_states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Applies the MLP to each token."""
        return self.layer.output.dense(self.layer.intermediate(hidden_states))


class ViTLayer(GradientCheckpointingLayer, Replaceable, PropertyModule):
    """Pre-norm encoder layer: attention and MLP with residual connections.

    Computes what `vitkit.layers.Block` does, with the modules of transformers.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("output_attentions", "attentions")
    _mlp: ViTMLP | None = None
    intermediate: ViTIntermediate
    output: ViTOutput

    def __init__(self, config: ViTConfig, drop_path: float = 0.0):
        super().__init__()
        self.attention = ViTAttention(config, drop_path)
        self.intermediate = ViTIntermediate(config)
        self.output = ViTOutput(config, drop_path)
        self.layernorm_before = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.layernorm_after = layer_norm(config.hidden_size, config.layer_norm_eps)

    @property
    def mlp(self) -> nn.Module:
        """The MLP of transformers 5.9 and later. Assigning a module replaces `intermediate` and `output.dense`."""
        if isinstance(self.output.dense, nn.Identity):
            return self.intermediate
        if self._mlp is None:
            self.__dict__["_mlp"] = ViTMLP(self)
        assert self._mlp is not None
        self._mlp.refresh()
        return self._mlp

    @mlp.setter
    def mlp(self, module: nn.Module) -> None:
        """Replaces the MLP with a module that maps tokens to tokens."""
        self.intermediate = module  # type: ignore[assignment]
        self.output.dense = nn.Identity()  # type: ignore[assignment]
        self.__dict__["_mlp"] = None

    @property
    def dropout(self) -> nn.Module:
        """Raises AttributeError, because this layer has two dropouts. In transformers 5.9 and later, it has one."""
        raise AttributeError(
            "the layer has two dropouts, attention.output.dropout and output.dropout; read these instead"
        )

    @dropout.setter
    def dropout(self, module: nn.Module) -> None:
        """Replaces the dropout of the attention and of the MLP."""
        self.attention.output.dropout = self.output.dropout = module  # type: ignore[assignment]

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
        if self._mlp is not None and self._mlp.is_observed:
            hidden_states = self.output.add(self._mlp(normed), hidden_states)
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
