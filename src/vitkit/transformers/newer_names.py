"""The names of the modules of a layer in transformers 5.9 and later: `mlp`, with `fc1` and `fc2`, and `dropout`."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitkit.transformers.properties import PropertyModule


class ViTMLP(PropertyModule):
    """The MLP of a layer as transformers 5.9 and later has it: `fc1`, `activation_fn` and `fc2`.

    It holds the modules of the layer's `intermediate` and `output`. A hook registered on it, or a replaced `forward`,
    takes effect in the layer.
    """

    layer: "NewerNames"

    def __init__(self, layer: "NewerNames"):
        super().__init__()
        self.__dict__["layer"] = layer

    def refresh(self) -> None:
        """Updates the registered modules to those of the layer, which can be replaced there."""
        self._modules.update(fc1=self.fc1, activation_fn=self.activation_fn, fc2=self.fc2)
        self.training = self.layer.training

    @property
    def is_observed(self) -> bool:
        """Whether the layer has to call this module, because it has hooks or another `forward`."""
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


class NewerNames(PropertyModule):
    """Base class of layers with the modules `intermediate` and `output`, and the names of transformers 5 for them."""

    attention: Any
    intermediate: Any
    output: Any
    _mlp: ViTMLP | None = None

    @property
    def mlp(self) -> nn.Module:
        """The MLP, as transformers 5.9 and later has it. Assigning replaces `intermediate` and `output.dense`."""
        if isinstance(self.output.dense, nn.Identity):
            return self.intermediate
        if self._mlp is None:
            self.__dict__["_mlp"] = ViTMLP(self)
        assert self._mlp is not None
        self._mlp.refresh()
        return self._mlp

    @mlp.setter
    def mlp(self, module: nn.Module) -> None:
        """Replaces the MLP by a module from tokens to tokens."""
        self.intermediate = module  # type: ignore[assignment]
        self.output.dense = nn.Identity()  # type: ignore[assignment]
        self.__dict__["_mlp"] = None

    @property
    def dropout(self) -> nn.Module:
        """Raises AttributeError: transformers 5.9 and later has one dropout here, this layer has two."""
        raise AttributeError("use attention.output.dropout and output.dropout; assigning replaces both")

    @dropout.setter
    def dropout(self, module: nn.Module) -> None:
        """Replaces the dropout of the attention and of the MLP."""
        self.attention.output.dropout = self.output.dropout = module  # type: ignore[assignment]

    @property
    def observed_mlp(self) -> nn.Module | None:
        """The module `mlp` if the layer has to call it, because it has hooks or another `forward`."""
        return self._mlp if self._mlp is not None and self._mlp.is_observed else None
