"""Finds and loads plug-ins, which add models, objectives and other components to vitkit.

Level 0. A plug-in is a Python file or an installed module. It provides a component in one of two ways. It has the
module attributes of a built-in component (`Config` and `build` for an objective, see `ATTRIBUTES`), or it calls
`register`. Plug-ins are loaded from three places: entry points of the group `vitkit.plugins`, the environment variable
VITKIT_PLUGINS (files or modules, separated like PATH), and calls of `load`. Entry points and VITKIT_PLUGINS are read
when a component is not built-in. If one of their plug-ins cannot be loaded, a `PluginWarning` is issued.
"""

import importlib
import importlib.util
import os
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from vitkit.config import nearest
from vitkit.text import printable

GROUP = "vitkit.plugins"
VARIABLE = "VITKIT_PLUGINS"
# Package name in `sys.modules` for modules that are loaded from files.
FILES = "vitkit.plugins.files"
# The module attributes that define a component, for each kind of component.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "model": ("Model", "PRESETS", "TINY"),
    "objective": ("build",),
    "source": ("open_source",),
    "evaluator": ("evaluate",),
    "explanation": ("explain",),
    "format": ("FORMAT",),
    "recipe": ("RECIPES",),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class PluginError(ValueError):
    """Raised if a plug-in cannot be loaded, or if a component lacks required attributes or methods."""


class PluginWarning(UserWarning):
    """Warning that a plug-in or a component is not available, with the reason."""


@dataclass(frozen=True)
class Origin:
    """Where a plug-in is loaded from: a file, a module or an installed package.

    `reference` is an absolute path or the name of a module. `load(reference)` loads the plug-in again. The reference is
    empty for components that are defined in a script or a notebook. `package` is the name and version of the installed
    package, if it is known.
    """

    reference: str
    package: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the plug-in is a file outside of any package."""
        return self.reference.endswith(".py")

    @property
    def stem(self) -> str:
        """Name of the file without its suffix, or last part of the module name."""
        return Path(self.reference).stem if self.is_file else self.reference.rpartition(".")[2]

    def __str__(self) -> str:
        """Returns the file, the package or the module of the plug-in for messages."""
        return printable(shown(self.reference) if self.is_file else self.package or self.reference or "this session")


@dataclass(frozen=True)
class Component:
    """A component of a plug-in. `kind` is a key of `ATTRIBUTES`, and `target` is the registered object."""

    kind: str
    name: str
    target: Any
    origin: Origin


_components: dict[str, dict[str, Component]] = {kind: {} for kind in ATTRIBUTES}
_modules: dict[str, ModuleType] = {}
_failed: dict[str, str] = {}
_loading: list[Origin] = []
_found: list[bool] = []
_untrusted: list[Path] = []


def shown(path: str) -> str:
    """Returns a path for messages. A path inside the current folder becomes a relative path."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return path


def snake_case(name: str) -> str:
    """Converts CamelCase to snake_case, such as `FocalLoss` to `focal_loss`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def register(kind: str, target: object, name: str | None = None, *, origin: Origin | None = None) -> Component:
    """Registers an object as a component of a kind, such as "objective".

    If `name` is None, the name of the object is used in snake_case. Raises PluginError if the kind is unknown, the name
    is invalid, or vitkit or another plug-in already has a component with this name.
    """
    if kind not in ATTRIBUTES:
        raise PluginError(f"unknown kind of component '{printable(kind)}'{nearest(str(kind), ATTRIBUTES)}")
    if name is None:
        own = getattr(target, "__name__", None) or getattr(target, "name", None)
        name = snake_case(str(own).rpartition(".")[2]) if own else ""
    if not isinstance(name, str) or not all(map(_NAME.fullmatch, name.split(".") if kind == "recipe" else [name])):
        raise PluginError(
            f"the name of a component is {name!r}; expected letters, digits, '_' and '-', such as 'focal_loss'"
        )
    origin = origin or origin_of(target)
    if name in builtin(kind):
        raise PluginError(
            f"{origin} registers the {kind} '{name}', which is the name of a built-in {kind}; choose another name"
        )
    other = _components[kind].get(name)
    if other is not None and other.origin != origin:
        raise PluginError(
            f"{origin} registers the {kind} '{name}', but {other.origin} has registered it already; rename one of them"
        )
    component = Component(kind, name, target, origin)
    _components[kind][name] = component
    return component


def unregister(kind: str, name: str) -> None:
    """Removes a registered component. Raises PluginError if no component has this kind and name."""
    if name not in _components.get(kind, {}):
        raise PluginError(f"no plug-in has registered the {kind} '{name}'")
    del _components[kind][name]


def registered(kind: str) -> dict[str, Component]:
    """Returns the registered components of a kind by name. Does not load installed plug-ins."""
    return dict(_components[kind])


def components(kind: str) -> dict[str, Component]:
    """Loads the installed plug-ins and returns all registered components of a kind, sorted by name."""
    find_installed()
    return dict(sorted(_components[kind].items()))


def component(kind: str, name: str) -> Component | None:
    """Returns the component with this name, or None.

    Loads installed plug-ins only if it is not registered yet.
    """
    return _components[kind].get(name) or components(kind).get(name)


def builtin(kind: str) -> frozenset[str]:
    """Returns the names of the built-in components of a kind, without importing any module."""
    folder = {"model": "models", "objective": "objectives", "source": "data/sources", "evaluator": "evaluation"}
    folder |= {"explanation": "explanation", "recipe": "recipes"}
    files = (Path(__file__).parent / folder[kind]).glob("*.py") if kind in folder else ()
    return frozenset(file.stem for file in files if not file.stem.startswith("_"))


def load(reference: str | os.PathLike[str]) -> list[Component]:
    """Loads a plug-in from a file (`./mine.py`), a module or a package, and returns its components.

    A plug-in that is already loaded is not loaded again. If the code of the plug-in raises an exception, PluginError is
    raised with the reason and the line.
    """
    text = os.fspath(reference)
    is_file = text.endswith(".py") or os.sep in text or Path(text).is_file()
    if is_file:
        path = Path(text).expanduser().resolve()
        if not path.is_file():
            problem = "is not a file" if path.exists() else "does not exist"
            raise PluginError(f"the plug-in '{printable(text)}' {problem}; expected a Python file such as ./mine.py")
        return _load(Origin(str(path)), path.stem, lambda: _import_file(path))
    installed = [each for each in entry_points(group=GROUP) if text in _names(each)]
    if installed:
        return [found for each in installed for found in _load_entry_point(each)]
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", text) or not _exists(text):
        raise PluginError(
            f"there is no plug-in '{printable(text)}'; expected a Python file such as ./mine.py, or an installed module"
        )
    return _load(Origin(text), text.rpartition(".")[2], lambda: importlib.import_module(text))


def find_installed() -> None:
    """Loads the plug-ins of installed packages and of VITKIT_PLUGINS once.

    Warns if a plug-in cannot be loaded.
    """
    if _found:
        return
    _found.append(True)
    for each in entry_points(group=GROUP):
        _attempt(
            f"the plug-in '{each.name}' of the package {_package(each)}", lambda each=each: _load_entry_point(each)
        )
    for each in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        _attempt(f"the plug-in '{each}' in {VARIABLE}", lambda each=each: load(each))


def failed() -> dict[str, str]:
    """Returns the installed plug-ins that cannot be loaded, as a dict from description to reason."""
    find_installed()
    return dict(_failed)


def loaded() -> tuple[str, ...]:
    """Returns the paths of the plug-in files that are loaded."""
    return tuple(reference for reference in _modules if reference.endswith(".py"))


def loaded_module(reference: str) -> ModuleType | None:
    """Returns the module of a plug-in (see `Origin.reference`), or None if the plug-in is not loaded."""
    return _modules.get(reference)


def _attempt(what: str, function: Callable[[], object]) -> None:
    """Calls a function that loads a plug-in, and warns if it raises PluginError."""
    try:
        function()
    except PluginError as error:
        reason = str(error)
        _failed[what] = reason
        warnings.warn(f"{printable(what)} was left out: {reason}", PluginWarning, stacklevel=3)


def _load(origin: Origin, name: str, import_module: Callable[[], ModuleType]) -> list[Component]:
    """Imports a plug-in and registers its components. If this fails, all of them are unregistered."""
    if origin.reference not in _modules:
        if any(Path(origin.reference).is_relative_to(folder) for folder in _untrusted):
            raise PluginError(
                f"the plug-in file {origin} is inside the folder whose config.json names it; if you trust it, load it "
                "first (--plugin FILE, or vitkit.plugins.load)"
            )
        before = {kind: dict(each) for kind, each in _components.items()}
        try:
            with _origin(origin):
                module = import_module()
                _modules[origin.reference] = module
                _register_module(module, name)
        except (Exception, SystemExit) as error:
            _modules.pop(origin.reference, None)
            for kind, each in before.items():  # without the components of other plug-ins that this plug-in has loaded
                kept = {name: found for name, found in _components[kind].items() if found.origin != origin}
                _components[kind] = kept | {name: found for name, found in each.items() if found.origin == origin}
            raise PluginError(f"cannot load the plug-in {origin}: {reason(error, origin)}") from error
    return [each for kind in _components.values() for each in kind.values() if each.origin == origin]


def _register_module(module: ModuleType, name: str) -> None:
    """Registers a module for each kind whose attributes it defines.

    Attributes imported from vitkit do not count.
    """
    for kind, attributes in ATTRIBUTES.items():
        given = [getattr(module, each) for each in attributes if hasattr(module, each)]
        homes = [value.__module__ or "" if isinstance(value, type | FunctionType) else "" for value in given]
        if any(kind == "model" or not home.startswith("vitkit.") or home.startswith(FILES) for home in homes):
            register(kind, module, name)


def reason(error: BaseException, origin: Origin | None = None) -> str:
    """Returns the message of an exception as one line, with the line number in the file of the plug-in."""
    text = printable(" ".join(str(error).split()))
    text = text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}".removesuffix(": ")
    line, trace = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None, error.__traceback__
    while trace is not None and origin is not None:
        if trace.tb_frame.f_code.co_filename == origin.reference:
            line = trace.tb_lineno
        trace = trace.tb_next
    named = isinstance(error, SyntaxError | PluginError)  # a SyntaxError names the line itself
    return text if line is None or named else f"{text} (line {line})"


def _load_entry_point(entry: EntryPoint) -> list[Component]:
    if entry.attr:
        raise PluginError(
            f"the entry point '{entry.name}' is '{entry.value}'; expected the name of a module, such as {entry.module}"
        )
    origin = Origin(entry.module, _package(entry))
    return _load(origin, entry.name, lambda: importlib.import_module(entry.module))


def _package(entry: EntryPoint) -> str:
    return "" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _names(entry: EntryPoint) -> set[str]:
    """Returns the names by which `load` finds an entry point: its name, module and package, with - or _."""
    package = entry.dist.name if entry.dist is not None else entry.name
    return {entry.name, entry.module, package, package.replace("-", "_"), entry.module.partition(".")[0]}


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _import_file(path: Path) -> ModuleType:
    """Imports a Python file. Its folder is appended to `sys.path`, so the file can import modules next to it."""
    for imported in list(sys.modules.values()):  # already imported, as by `import mine` before `load("./mine.py")`
        if vars(imported).get("__file__") == str(path) and imported.__name__ != "__main__":
            return imported
    name = f"{FILES}.{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{zlib.crc32(os.fsencode(path)):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("it is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses and pickle look classes up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def origin_of(target: object) -> Origin:
    """Returns the origin of an object: the plug-in that is being loaded, or else the module that defines it."""
    if _loading:
        return _loading[-1]
    module = target.__name__ if isinstance(target, ModuleType) else getattr(target, "__module__", None)
    known = next((Origin(path) for path, each in _modules.items() if each.__name__ == module), None)
    if known is not None or module in (None, "__main__"):
        return known or Origin("")
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    # For a module outside of any package, use its path, so that `load` also finds it from other folders.
    return (
        Origin(str(Path(file).resolve()))
        if file and "." not in str(module) and file.endswith(".py")
        else Origin(module)
    )


def describe(kind: str, name: str) -> dict[str, str] | None:
    """Returns the kind, name and origin of a plug-in component for the run config, or None if it is built-in."""
    found = _components[kind].get(name)
    if found is None:
        return None
    return {"kind": kind, "name": name, "plugin": found.origin.reference, "package": found.origin.package}


@contextmanager
def without_code_of(folder: Path) -> Iterator[None]:
    """Context manager that prevents loading plug-in files from an untrusted folder."""
    _untrusted.append(folder.resolve())
    try:
        yield
    finally:
        _untrusted.pop()


@contextmanager
def _origin(origin: Origin) -> Iterator[None]:
    _loading.append(origin)
    try:
        yield
    finally:
        _loading.pop()
