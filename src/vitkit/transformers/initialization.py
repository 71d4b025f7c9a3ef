"""Random initialization of weights. Weights that were loaded or initialized before do not change.

transformers marks initialized modules and tensors with the attribute `_is_hf_initialized`. The marks here are the same,
so that a model of transformers that contains one of ours does not initialize it again.
"""

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vitkit.transformers.activations import XIELUActivation
from vitkit.transformers.checkpointing import ActivationCheckpointing
from vitkit.transformers.embeddings import ViTEmbeddings

Model = TypeVar("Model", bound=nn.Module)


class Initialization(nn.Module, ABC):
    """Methods of models that initialize weights. Subclasses override `_init_weights`."""

    config: Any

    def post_init(self) -> None:
        """Initializes the weights of new modules. Called at the end of every constructor.

        Enables activation checkpointing for a config with `gradient_checkpointing=True`.
        """
        self.init_weights()
        enabled = getattr(self.config, "gradient_checkpointing", False)
        if enabled and isinstance(self, ActivationCheckpointing) and self.supports_gradient_checkpointing:
            self.activation_checkpointing_enable()
            delattr(self.config, "gradient_checkpointing")

    @torch.no_grad()
    def init_weights(self, only: Iterable[nn.Module] | None = None) -> None:
        """Initializes the modules in `only`, or if `only` is None, all modules that are not initialized.

        A module is initialized by the `_init_weights` of the innermost model that contains it, after its children.
        """
        selected = None if only is None else set(only)
        for module, model in _with_owners(self, self):
            if module in selected if selected is not None else not getattr(module, "_is_hf_initialized", False):
                model._init_weights(module)
            # On the meta device, whoever loads the weights initializes those that are missing.
            module._is_hf_initialized = not any(p.is_meta for p in module.parameters(recurse=False))  # type: ignore[assignment]

    initialize_weights = init_weights

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """Initializes one module if it is new. Called by models of transformers that contain this model."""
        if not getattr(module, "_is_hf_initialized", False):
            self._init_weights(module)
            module._is_hf_initialized = True  # type: ignore[assignment]

    def _init_weights(self, module: nn.Module) -> None:
        """Initializes one module: truncated normal weights, zero biases, and a zero mask token."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            _truncated_normal(module.weight, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.zeros_(module.bias)
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, module.init)
        elif isinstance(module, XIELUActivation):
            module.reset_parameters()
        elif isinstance(module, ViTEmbeddings):
            _truncated_normal(module.position_embeddings, std)
            _truncated_normal(module.cls_token, std)
            if module.mask_token is not None:
                nn.init.zeros_(module.mask_token)


def _truncated_normal(tensor: Tensor, std: float) -> None:
    """Samples in float32, because older versions of PyTorch cannot sample half precision on CPUs."""
    tensor.data = nn.init.trunc_normal_(tensor.data.float(), std=std).to(tensor.dtype)


def _with_owners(module: nn.Module, model: Initialization) -> Iterator[tuple[nn.Module, Initialization]]:
    """Yields the modules of a model, children first, each with the innermost model that contains it."""
    for child in module.children():
        yield from _with_owners(child, child if isinstance(child, Initialization) else model)
    yield module, model


def create(model_class: type[Model], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Model:
    """Creates a model into which weights will be loaded. `allocate` moves the model to a device.

    vitkit's own classes are created on the meta device, without memory. The constructor of any other class may set
    parameters and buffers that no file contains, so such a class is created as usual. The dtype is that of the config,
    the first of the arguments.
    """
    if not model_class.__module__.startswith("vitkit."):
        return model_class(*arguments, **options).to(arguments[0].dtype)
    with torch.device("meta"):
        model = model_class(*arguments, **options)
    return model.to(arguments[0].dtype)


def allocate(model: Model, device: torch.device) -> Model:
    """Moves a model to a device.

    For a model on the meta device, memory is allocated but not initialized.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return model.to_empty(device=device)
    return model.to(device)


def initialize_missing(model: Initialization, missing: Iterable[str]) -> None:
    """Initializes all modules that contain one of the missing parameters, given by their names."""
    selected: set[nn.Module] = set()
    for name in missing:
        module: nn.Module = model
        for part in ["", *name.split(".")[:-1]]:
            module = module.get_submodule(part)
            selected.add(module)
    model.init_weights(selected)


def mark_initialized(model: nn.Module) -> None:
    """Marks all modules and tensors of a loaded model as initialized."""
    for module in model.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor._is_hf_initialized = True  # type: ignore[attr-defined]
