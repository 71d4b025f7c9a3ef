"""References to components in plug-in files, such as `FILE.py:NAME` or `FILE.py:NAME?ARGUMENT`.

Level 0. Users can give a reference instead of the name of a component. `resolve` executes the file, so it must not be
called with text from checkpoints or other untrusted files.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from vitkit.config import nearest
from vitkit.discovery import Component, Origin, PluginError, builtin, load, loaded_module, register, registered, shown
from vitkit.text import printable

_REFERENCE = re.compile(r"(?P<file>.+?\.py)(?::(?P<name>[^:?]*))?(?:[:?](?P<argument>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """A component in a file. It is written as `FILE.py:NAME`, or as `FILE.py:NAME?ARGUMENT` with an argument."""

    file: str
    name: str
    argument: str | None


def parse(text: str) -> Reference | None:
    """Parses a reference such as `FILE.py:NAME`.

    Returns None for any other text, such as a component name.
    """
    match = _REFERENCE.fullmatch(text)
    return None if match is None else Reference(match["file"], match["name"] or "", match["argument"])


def module_of(file: str) -> ModuleType:
    """Loads a plug-in file and returns its module."""
    load(file)
    module = loaded_module(str(Path(file).expanduser().resolve()))
    assert module is not None, "load has loaded it"
    return module


def resolve(kind: str, text: str) -> str:
    """Loads the component `FILE.py:NAME?ARGUMENT` and returns its name with the argument, as `NAME:ARGUMENT`.

    The component is registered if needed. Any text that is not a reference is returned unchanged. Raises PluginError if
    the file has no such component.
    """
    reference = parse(text)
    if reference is None or text.partition(":")[0] in builtin(kind) | registered(kind).keys():
        return text
    name = _component_in(kind, reference).name
    return name if reference.argument is None else f"{name}:{reference.argument}"


def _component_in(kind: str, reference: Reference) -> Component:
    """Returns the component of a reference.

    A reference without a name selects the only component of the kind.
    """
    module, name = module_of(reference.file), reference.name
    path = str(module.__file__)
    mine = [each for each in registered(kind).values() if each.origin.reference == path]
    if not name:
        if len(mine) == 1:
            return mine[0]
        names = ", ".join(each.name for each in mine)
        raise PluginError(
            f"the file {shown(path)} has {f'several components of the kind {kind} ({names})' if mine else f'no {kind}'}"
            f"; write {printable(reference.file)}:NAME"
        )
    target = getattr(module, name, None)
    for each in mine:
        if name in (each.name, each.name.rpartition(".")[2]) or (target is not None and each.target is target):
            return each
    if target is None:
        raise PluginError(f"the file {shown(path)} has no '{printable(name)}'{nearest(name, public(module))}")
    full = f"{Path(path).stem}.{name}" if kind == "recipe" else name
    return register(kind, target, full, origin=Origin(path))


def public(module: ModuleType) -> dict[str, object]:
    """Returns the public functions and classes that a module defines and does not import."""
    named = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in named.items() if getattr(value, "__module__", "") == module.__name__}
