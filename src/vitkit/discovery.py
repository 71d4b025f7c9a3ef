"""Finds plug-ins: models, objectives and other components in files and packages outside of vitkit.

Level 0. A plug-in is a Python file or an installed module. It provides components in two ways: by the attributes that a
file of vitkit's own folders has (`Config` and `build` for an objective, see `ATTRIBUTES`), or by calls of `register`.
Plug-ins are loaded from three places: entry points of the group `vitkit.plugins`, the environment variable
VITKIT_PLUGINS (files or modules, separated like PATH), and calls of `load`. The first two are read when a component is
looked up that vitkit itself does not have. A plug-in that cannot be loaded is reported by a `PluginWarning`.
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
# Package in `sys.modules` of the modules that are loaded from files.
FILES = "vitkit.plugins.files"
# Attributes of a module that make it a component of a kind.
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
    """Raised if a plug-in cannot be loaded, or if a component lacks a part of its contract."""


class PluginWarning(UserWarning):
    """Warning that a plug-in or one of its components was left out, with the reason."""


@dataclass(frozen=True)
class Origin:
    """Place that a plug-in comes from.

    `reference` is the argument of `load` that loads it again: an absolute path or the name of a module. It is empty for
    components of a script or a notebook. `package` is the name and version of the installed package, if it is known.
    """

    reference: str
    package: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the plug-in is a file outside of any package."""
        return self.reference.endswith(".py")

    @property
    def stem(self) -> str:
        """Last part of the name of the plug-in: of its file or its module."""
        return Path(self.reference).stem if self.is_file else self.reference.rpartition(".")[2]

    def __str__(self) -> str:
        """Returns the name for messages: the file, the package or the module."""
        return printable(shown(self.reference) if self.is_file else self.package or self.reference or "this session")


@dataclass(frozen=True)
class Component:
    """A component of a plug-in: its kind (a key of `ATTRIBUTES`), its name, the object itself, and its origin."""

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
    """Returns a path for messages: relative to the current folder if it is inside, else unchanged."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return path


def snake_case(name: str) -> str:
    """Converts the name of a class to the form of module names, such as `FocalLoss` to `focal_loss`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def register(kind: str, target: object, name: str | None = None, *, origin: Origin | None = None) -> Component:
    """Registers an object as a component of a kind, such as "objective". The default name is that of the object.

    Raises PluginError for an unknown kind, an invalid name, and a name that vitkit or another plug-in has.
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
    """Removes a component of a plug-in. Raises PluginError if there is none of that kind and name."""
    if name not in _components.get(kind, {}):
        raise PluginError(f"no plug-in has registered the {kind} '{name}'")
    del _components[kind][name]


def registered(kind: str) -> dict[str, Component]:
    """Returns the components of a kind that are registered already, without loading installed plug-ins."""
    return dict(_components[kind])


def components(kind: str) -> dict[str, Component]:
    """Returns the components of a kind from all plug-ins, sorted by name. Loads the installed plug-ins at first use."""
    find_installed()
    return dict(sorted(_components[kind].items()))


def component(kind: str, name: str) -> Component | None:
    """Returns a component by name, or None. Installed plug-ins are loaded only if no other one has the name."""
    return _components[kind].get(name) or components(kind).get(name)


def builtin(kind: str) -> frozenset[str]:
    """Returns the names that vitkit itself uses for a kind. No module is imported."""
    folder = {"model": "models", "objective": "objectives", "source": "data/sources", "evaluator": "evaluation"}
    folder |= {"explanation": "explanation", "recipe": "recipes"}
    files = (Path(__file__).parent / folder[kind]).glob("*.py") if kind in folder else ()
    return frozenset(file.stem for file in files if not file.stem.startswith("_"))


def load(reference: str | os.PathLike[str]) -> list[Component]:
    """Loads a plug-in and returns its components: the path of a file (`./mine.py`), or the name of a module or package.

    A plug-in that is already loaded is not loaded again. Raises PluginError, with the reason and the line, if the code
    of the plug-in raises an error.
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
    """Loads the plug-ins of installed packages and of VITKIT_PLUGINS, once. Warns of those that fail."""
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
    """Returns the installed plug-ins that cannot be loaded, each with the reason."""
    find_installed()
    return dict(_failed)


def loaded() -> tuple[str, ...]:
    """Returns the paths of the plug-in files that are loaded."""
    return tuple(reference for reference in _modules if reference.endswith(".py"))


def loaded_module(reference: str) -> ModuleType | None:
    """Returns the module of a loaded plug-in, by the reference of its origin, or None if it is not loaded."""
    return _modules.get(reference)


def _attempt(what: str, function: Callable[[], object]) -> None:
    """Calls a function that loads a plug-in. If it fails, warns with one line."""
    try:
        function()
    except PluginError as error:
        reason = str(error)
        _failed[what] = reason
        warnings.warn(f"{printable(what)} was left out: {reason}", PluginWarning, stacklevel=3)


def _load(origin: Origin, name: str, import_module: Callable[[], ModuleType]) -> list[Component]:
    """Imports a plug-in and registers its components. If this fails, none of them stays registered."""
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
            for kind, each in before.items():  # not those of other plug-ins that this one has loaded
                kept = {name: found for name, found in _components[kind].items() if found.origin != origin}
                _components[kind] = kept | {name: found for name, found in each.items() if found.origin == origin}
            raise PluginError(f"cannot load the plug-in {origin}: {reason(error, origin)}") from error
    return [each for kind in _components.values() for each in kind.values() if each.origin == origin]


def _register_module(module: ModuleType, name: str) -> None:
    """Registers a module for each kind of which it has the attributes. Functions imported from vitkit do not count."""
    for kind, attributes in ATTRIBUTES.items():
        given = [getattr(module, each) for each in attributes if hasattr(module, each)]
        homes = [value.__module__ or "" if isinstance(value, type | FunctionType) else "" for value in given]
        if any(kind == "model" or not home.startswith("vitkit.") or home.startswith(FILES) for home in homes):
            register(kind, module, name)


def reason(error: BaseException, origin: Origin | None = None) -> str:
    """Returns an error as one line, with the line of the plug-in's file that raised it."""
    text = printable(" ".join(str(error).split()))
    text = text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}".removesuffix(": ")
    line, trace = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None, error.__traceback__
    while trace is not None and origin is not None:
        if trace.tb_frame.f_code.co_filename == origin.reference:
            line = trace.tb_lineno
        trace = trace.tb_next
    named = isinstance(error, SyntaxError | PluginError)  # Python's text of a SyntaxError has the line
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
    """Returns the names of an entry point for `load`: its own, its module and its package, with - or _."""
    package = entry.dist.name if entry.dist is not None else entry.name
    return {entry.name, entry.module, package, package.replace("-", "_"), entry.module.partition(".")[0]}


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _import_file(path: Path) -> ModuleType:
    """Imports a file. Modules next to it can be imported, after those that are installed."""
    for imported in list(sys.modules.values()):  # `import mine` before `load("./mine.py")`
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
    """Returns the plug-in that is being loaded, or else the module that defines an object."""
    if _loading:
        return _loading[-1]
    module = target.__name__ if isinstance(target, ModuleType) else getattr(target, "__module__", None)
    known = next((Origin(path) for path, each in _modules.items() if each.__name__ == module), None)
    if known is not None or module in (None, "__main__"):
        return known or Origin("")
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    # A module outside of any package is a file, which `load` finds by its path wherever it is called.
    return (
        Origin(str(Path(file).resolve()))
        if file and "." not in str(module) and file.endswith(".py")
        else Origin(module)
    )


def describe(kind: str, name: str) -> dict[str, str] | None:
    """Returns what a run config says of a component of a plug-in, to find it again, or None if it is built-in."""
    found = _components[kind].get(name)
    if found is None:
        return None
    return {"kind": kind, "name": name, "plugin": found.origin.reference, "package": found.origin.package}


@contextmanager
def without_code_of(folder: Path) -> Iterator[None]:
    """Context manager in which plug-in files inside a folder are not loaded, because its config names them."""
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
