"""The required attributes of a model family module, and functions that validate them."""

import dataclasses
import inspect
from collections.abc import Mapping
from types import ModuleType

from vitkit.discovery import PluginError

FIELDS = ("image_size", "channels", "num_classes", "task")
NEEDS = {
    "Config": f"a frozen dataclass with the fields {', '.join(FIELDS)}",
    "Model": "a subclass of Backbone, or a function of a Config that returns a Backbone",
    "PRESETS": 'a dict of configs by name, such as {"patch-mean/16": Config()}',
    "TINY": "a Config of a model that runs in milliseconds, for checks",
}


def validate(base: type, module: ModuleType) -> None:
    """Raises PluginError if an attribute of a model family is invalid or its model class lacks a method.

    `base` is the class `Backbone`. The model class must be a subclass of it.
    """
    if not dataclasses.is_dataclass(module.Config) or not isinstance(module.Config, type):
        raise PluginError(f"Config is {module.Config!r}; expected {NEEDS['Config']}")
    fields = {field.name for field in dataclasses.fields(module.Config)}
    if absent := [name for name in FIELDS if name not in fields]:
        raise PluginError(f"Config has no {', no '.join(absent)}; expected {NEEDS['Config']}")
    if not module.Config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PluginError("Config is not frozen; write @dataclass(frozen=True, kw_only=True)")
    if not callable(module.Model):
        raise PluginError(f"Model is {module.Model!r}; expected {NEEDS['Model']}")
    if isinstance(module.Model, type) and not issubclass(module.Model, base):
        raise PluginError(f"Model is the class {module.Model.__name__}, which is not a subclass of Backbone")
    if isinstance(module.Model, type) and inspect.isabstract(module.Model):
        raise PluginError(_abstract(base, module.Model))
    if not isinstance(module.PRESETS, Mapping):
        raise PluginError(f"PRESETS is {module.PRESETS!r}; expected {NEEDS['PRESETS']}")
    for name, config in {"TINY": module.TINY, **module.PRESETS}.items():
        if not isinstance(name, str) or not hasattr(config, "num_classes") or not dataclasses.is_dataclass(config):
            where = "TINY" if name == "TINY" else f"PRESETS[{name!r}]"
            raise PluginError(f"{where} is {config!r}; expected a Config")


def _abstract(base: type, model: type) -> str:
    """Returns an error message that lists the missing methods of a model class with their signatures."""
    names = sorted(getattr(model, "__abstractmethods__", ()))
    forms = [f"{name}{inspect.signature(getattr(base, name, getattr(model, name)))}" for name in names]
    short = [form.replace("jaxtyping.", "").replace("torch.", "").partition(" ->")[0] for form in forms]
    methods = "method" if len(names) == 1 else "methods"
    return f"{model.__name__} has no {methods} {' and no '.join(names)}; define {' and '.join(short)}"
