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


def alias(path: str, doc: str) -> property:
    """Returns a property that gets and sets the submodule at a path, such as "attention.query"."""
    parent, _, leaf = path.rpartition(".")

    def owner(module: nn.Module) -> nn.Module:
        return module.get_submodule(parent)  # the module itself if the path has no dot

    def getter(module: nn.Module) -> nn.Module:
        return getattr(owner(module), leaf)

    def setter(module: nn.Module, value: nn.Module) -> None:
        setattr(owner(module), leaf, value)

    return property(getter, setter, doc=doc)


class ProjectionNames(PropertyModule):
    """Base class of attention modules with the projections `attention.query`, `.key`, `.value` and `output.dense`.

    `q_proj`, `k_proj`, `v_proj` and `o_proj` are their names in transformers 5.9 and later.
    """

    q_proj = alias("attention.query", "The query projection, `attention.query`.")
    k_proj = alias("attention.key", "The key projection, `attention.key`.")
    v_proj = alias("attention.value", "The value projection, `attention.value`.")
    o_proj = alias("output.dense", "The output projection, `output.dense`.")


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
