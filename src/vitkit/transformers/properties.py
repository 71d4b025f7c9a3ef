"""`PropertyModule`, for modules with a second name: a property whose setter replaces the module."""

import inspect
from typing import Any, ClassVar

from torch import nn


class PropertyModule(nn.Module):
    """Base class of modules with properties that get and set submodules.

    `nn.Module` registers an assigned module under the name of the property, next to the module that the property refers
    to, and the setter is not called. Here the setter is called.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__delattr__(self, name)
        else:
            super().__delattr__(name)


class Replaceable(nn.Module):
    """Base class of modules that users can replace with their own. `OPTIONS` are optional parameters of `forward`."""

    OPTIONS: ClassVar[tuple[str, ...]] = ()


def accepts(module: nn.Module, own: type[Replaceable], option: str) -> bool:
    """Returns whether `module.forward` accepts an option. The module is an instance of `own` or a replacement of it."""
    forward = module.forward
    if getattr(forward, "__func__", None) is own.forward:
        return option in own.OPTIONS
    parameters = inspect.signature(forward).parameters
    return option in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
