"""Finds implementations by file name. The implementations are the public modules of a package.

Every folder of implementations (models, objectives, evaluators, data sources, commands, ...) is a package whose public
modules have the same attributes. To add an implementation, add a file. Modules whose names start with an underscore are
private helpers. A registry with a `plugin_kind` also contains the components of plug-ins (`vitkit.discovery`).
"""

import dataclasses
import difflib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, get_type_hints

from vitkit import discovery
from vitkit.config import nearest
from vitkit.discovery import Component, PluginError, PluginWarning
from vitkit.references import resolve

Needs = Sequence[str] | Mapping[str, str]


class Registry:
    """Registry of the modules in a package that implement one kind of component. Modules are named by their files.

    Args:
        package: Dotted name of the package, usually `__name__` of its `__init__.py`.
        kind: Name of the kind of implementation in error messages, such as "model family".
        needs: Names of the attributes that every implementation must have, or a dict with their descriptions for error
            messages.
        exclude: Public modules of the package that are not implementations.
        plugin_kind: Kind of plug-in components to include, a key of `vitkit.discovery.ATTRIBUTES`. With "", no plug-ins
            are included.
        adapt: Function that converts a component that is not a module, such as a function, to a module with the
            attributes `needs`.
        validate: Function that raises PluginError if an attribute of a module is invalid.
    """

    def __init__(
        self,
        package: str,
        kind: str,
        needs: Needs = (),
        exclude: Sequence[str] = (),
        *,
        plugin_kind: str = "",
        adapt: Callable[[Component], ModuleType] | None = None,
        validate: Callable[[ModuleType], None] | None = None,
    ):
        self.package = package
        self.kind = kind
        self.needs = needs if isinstance(needs, Mapping) else dict.fromkeys(needs, "")
        self.exclude = frozenset(exclude)
        self.plugin_kind = plugin_kind
        self.adapt = adapt
        self.validate = validate
        self._valid: dict[str, tuple[object, ModuleType]] = {}

    def names(self) -> list[str]:
        """Returns the sorted names of the implementations. No module of the package is imported."""
        plugins = discovery.components(self.plugin_kind) if self.plugin_kind else {}
        return sorted({*self._files(), *plugins})

    def __contains__(self, name: str) -> bool:
        """Returns whether the name is an implementation.

        Loads plug-ins only if no module of the package has it.
        """
        return name in self._files() or (
            bool(self.plugin_kind) and discovery.component(self.plugin_kind, name) is not None
        )

    def get(self, name: str) -> ModuleType:
        """Returns the module with this name. No plug-in file is loaded, so `name` may be untrusted.

        Raises ValueError with similar names if the name is unknown, and PluginError if the module or the component
        lacks a required attribute or method.
        """
        if name in self._files():
            module = import_module(f"{self.package}.{name}")
            return self._checked(name, module, module, module.__name__)
        component = discovery.component(self.plugin_kind, name) if self.plugin_kind else None
        if component is None:
            raise ValueError(f"unknown {self.kind} '{name}'{nearest(name, self.names())}")
        known = self._valid.get(name)
        if known is not None and known[0] is component.target:
            return known[1]
        return self._checked(name, component.target, self._adapted(component), f"'{name}' of {component.origin}")

    def find(self, text: str) -> ModuleType:
        """Returns the module of a name, or of a component in a plug-in file, given as `./mine.py:NAME`.

        The plug-in file is loaded, so `text` must be trusted. Raises the same errors as `get`, and PluginError if the
        file has no such component.
        """
        return self.get(resolve(self.plugin_kind, text))

    def name_of(self, config: type) -> str:
        """Returns the name of the implementation whose `Config` is this class. Raises ValueError if there is none."""
        package, _, name = config.__module__.rpartition(".")
        if package == self.package:
            return name
        for component in discovery.components(self.plugin_kind).values():
            if self._config_of(component) is config:
                return component.name
        raise ValueError(
            f"the config class {config.__name__} of the module {config.__module__} belongs to no registered "
            f"{self.kind}; register it with vitkit.plugins.register_{self.plugin_kind}"
        )

    def __iter__(self) -> Iterator[tuple[str, ModuleType]]:
        """Yields (name, module) for every implementation. Invalid implementations are left out with a warning."""
        for name in self.names():
            try:
                module = self.get(name)
            except PluginError as error:
                warn_left_out(str(error))
            else:
                yield name, module

    def _files(self) -> set[str]:
        modules = pkgutil.iter_modules(import_module(self.package).__path__)
        return {module.name for module in modules if not module.name.startswith("_")} - self.exclude

    def _config_of(self, component: Component) -> object:
        """Returns the class `Config` of a component, or None if the component is invalid."""
        if isinstance(component.target, ModuleType):
            return getattr(component.target, "Config", None)
        try:
            return self.get(component.name).Config
        except PluginError:
            return None

    def _adapted(self, component: Component) -> ModuleType:
        if isinstance(component.target, ModuleType):
            return component.target
        if self.adapt is None:
            raise PluginError(
                f"'{component.name}' of {component.origin} is not a {self.kind}; write {', '.join(self.needs)} into "
                f"a file, or use vitkit.plugins.register_{self.plugin_kind}"
            )
        return self.adapt(component)

    def _checked(self, name: str, target: object, module: ModuleType, where: str) -> ModuleType:
        if name in self._valid and self._valid[name][0] is target:
            return module
        missing = [
            f"{each}{_description(text)}{_similar(each, module)}"
            for each, text in self.needs.items()
            if not hasattr(module, each)
        ]
        if missing:
            raise PluginError(f"{where} is not a {self.kind}, because it has no {', no '.join(missing)}")
        if self.validate is not None:
            try:
                self.validate(module)
            except PluginError as error:
                raise PluginError(f"{where} is not a {self.kind}: {error}") from None
        self._valid[name] = target, module
        return module


_warned: set[str] = set()


def warn_left_out(text: str) -> None:
    """Warns once that an invalid component was left out. `text` names the component and the reason."""
    if text in _warned:
        return
    _warned.add(text)
    warnings.warn(f"left out: {text}", PluginWarning, stacklevel=3)


def namespace(component: Component, **attributes: object) -> ModuleType:
    """Creates a module with the given attributes from a component that is a function or a class."""
    module = ModuleType(f"{getattr(component.target, '__module__', component.kind)}.{component.name}")
    module.__doc__ = getattr(component.target, "__doc__", None)
    vars(module).update(attributes)
    return module


def options_class(component: Component, positional: int, form: str, *, defaults: bool) -> type:
    """Creates a frozen dataclass from the parameters of a function after the first `positional` parameters.

    Raises PluginError if the signature is invalid, or if a parameter has no type. With `defaults`, every parameter must
    have a default value. `form` is the expected signature for the error message.
    """
    function = component.target
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = get_type_hints(function.__init__ if isinstance(function, type) else function)
    except (TypeError, ValueError, NameError) as error:
        raise PluginError(f"'{component.name}' of {component.origin} has no usable signature: {error}") from None
    given = ", ".join(map(str, parameters))
    wrong = PluginError(f"'{component.name}' of {component.origin} takes ({given}); expected {form}")
    first, options = parameters[:positional], parameters[positional:]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if len(first) < positional or any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in first):
        raise wrong
    if any(each.kind not in by_name or (defaults and each.default is each.empty) for each in options):
        raise wrong
    fields: list[tuple[str, Any, Any]] = []
    for each in options:
        if each.name not in hints and each.default in (each.empty, None):
            raise PluginError(
                f"the option '{each.name}' of '{component.name}' of {component.origin} has no type; "
                f"write {each.name}: float, for example"
            )
        default = dataclasses.MISSING if each.default is each.empty else each.default
        fields.append((each.name, hints.get(each.name, type(each.default)), dataclasses.field(default=default)))
    made = dataclasses.make_dataclass("Config", fields, frozen=True, kw_only=True)
    made.__module__ = getattr(function, "__module__", made.__module__)
    return made


def _description(text: str) -> str:
    return f" ({text})" if text else ""


def _similar(name: str, module: ModuleType) -> str:
    """Returns a hint if the module has an attribute with a similar name, such as `Presets` for `PRESETS`."""
    own = {each.lower(): each for each in vars(module) if not each.startswith("_")}
    near = difflib.get_close_matches(name.lower(), own, n=1, cutoff=0.75)
    return f"; it has '{own[near[0]]}', which must be called '{name}'" if near else ""
