"""Helpers for timm's layers: norms, activations, sizes, and the names and order of submodules."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from vitkit.layers.activations import activation_name, names_in

#: A norm or activation: its name in timm, a class, or a function that returns the module.
LayerType = str | Callable[..., nn.Module]


def hide(module: nn.Module, *names: str) -> None:
    """Unregisters submodules that timm's module does not have, and keeps them as plain attributes."""
    for name in names:
        if name in module._modules:
            object.__setattr__(module, name, module._modules.pop(name))


def move_first(module: nn.Module, *names: str) -> None:
    """Moves submodules and parameters to the front, in the given order, so that state dicts have timm's order."""
    for entries in (module._modules, module._parameters):
        for name in (*names, *(name for name in list(entries) if name not in names)):
            if name in entries:
                entries[name] = entries.pop(name)  # type: ignore[assignment]


def to_2tuple(size: Any) -> tuple[Any, Any]:
    """Converts a size to a tuple of two values. A single value is repeated."""
    if isinstance(size, Iterable) and not isinstance(size, str):
        first, second = size
        return first, second
    return size, size


def norm_eps(norm_layer: LayerType | None, default: float = 1e-6) -> float:
    """Returns the epsilon of timm's `norm_layer`. Raises ValueError if it is not a LayerNorm."""
    if norm_layer is None or (isinstance(norm_layer, str) and norm_layer.lower() == "layernorm"):
        return default
    norm = None if isinstance(norm_layer, str) else norm_layer(8)
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None:
        raise ValueError(f"norm_layer is {norm_layer!r}; vitkit's ViTs support only nn.LayerNorm, with any eps")
    return norm.eps


def act_name(act_layer: LayerType | None) -> Any:
    """Converts timm's `act_layer` to vitkit's activation name. Raises ValueError for an unsupported activation."""
    if act_layer is None:
        return "gelu"
    known = names_in("timm")
    name = known.get(act_layer) if isinstance(act_layer, str) else activation_name(act_layer())
    if name is None:
        raise ValueError(
            f"act_layer is {act_layer!r}; expected one of {', '.join(known)}, or the torch class of one of these"
        )
    return name
