"""Activation checkpointing, with the attributes by which transformers enables it in every model."""

import functools
from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitkit.transformers.hub import Argument


class GradientCheckpointingLayer(nn.Module):
    """Base class of layers whose activations are recomputed in the backward pass if `gradient_checkpointing` is True.

    Whoever enables it sets `_gradient_checkpointing_func`, a function that gets `forward` with its keyword arguments,
    and the positional arguments. Hooks of the layer run once, because the function gets `forward` and not the module.
    """

    gradient_checkpointing: bool = False
    _gradient_checkpointing_func: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" not in cls.__dict__:
            return
        forward = cls.forward

        @functools.wraps(forward)
        def call(self: Any, *args: Any, **options: Any) -> Any:
            # A class can be derived from another layer: only the outermost `forward` is recomputed.
            outermost = type(self).forward is call
            if outermost and self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                return self._gradient_checkpointing_func(functools.partial(forward, self, **options), *args)
            return forward(self, *args, **options)

        cls.forward = call


class ActivationCheckpointing(nn.Module, ABC):
    """Methods of models that enable activation checkpointing."""

    supports_gradient_checkpointing: ClassVar[bool] = True

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Argument] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Enables activation checkpointing for every layer or for every n-th layer.

        `activation_checkpointing_kwargs` are options of `torch.utils.checkpoint.checkpoint`. Raises ValueError for
        `offload`, which is not supported, and for a model that does not support activation checkpointing.
        """
        if not self.supports_gradient_checkpointing:
            raise ValueError(f"{type(self).__name__} does not support activation checkpointing.")
        if offload:
            raise ValueError("offload=True is not supported; use offload=False")
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self._set_gradient_checkpointing(True, functools.partial(checkpoint, **options), every_n_layers)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Argument] | None = None, **options: Argument
    ) -> None:
        """Alias of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """Disables activation checkpointing."""
        self._set_gradient_checkpointing(False)

    gradient_checkpointing_disable = activation_checkpointing_disable

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., object] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """Sets the attributes of the layers, and of other modules that have the attribute `gradient_checkpointing`."""
        if every_n_layers < 1:
            raise ValueError(f"every_n_layers is {every_n_layers}; expected at least 1")
        layers = 0
        for module in self.modules():
            if not hasattr(module, "gradient_checkpointing"):
                continue
            enabled = enable
            if isinstance(module, GradientCheckpointingLayer):
                enabled, layers = enable and layers % every_n_layers == 0, layers + 1
            module._gradient_checkpointing_func = gradient_checkpointing_func  # type: ignore[assignment]
            module.gradient_checkpointing = enabled  # type: ignore[assignment]

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether activation checkpointing is enabled for a layer."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Former name of the attribute `is_activation_checkpointing`."""
        return self.is_activation_checkpointing
