"""Plug-ins of a run. The run config contains the plug-in components of the run and where they come from."""

from collections.abc import Iterable, Mapping

from vitkit import discovery
from vitkit.config import JsonDict
from vitkit.discovery import PluginError, component
from vitkit.references import resolve
from vitkit.text import printable

KEYS = ("kind", "name", "plugin")


def described(names: Iterable[tuple[str, str]]) -> list[JsonDict]:
    """Returns descriptions of plug-in components for JSON. Built-in components are left out."""
    return [found for kind, name in dict.fromkeys(names) if (found := discovery.describe(kind, name)) is not None]


def restore(descriptions: object) -> None:
    """Loads the plug-ins in a run config (see `described`) whose components are not registered yet.

    The files that a run config names are executed, so the config must be trusted like a script. Raises PluginError if a
    plug-in cannot be loaded, or no longer has the component.
    """
    for each in descriptions if isinstance(descriptions, list) else [descriptions]:
        if not isinstance(each, Mapping) or not all(isinstance(each.get(key), str) for key in KEYS):
            raise PluginError(
                f"'plugins' of the run config contains {each!r}; expected an object with {', '.join(KEYS)}"
            )
        kind, name, plugin = each["kind"], each["name"], each["plugin"]
        if kind not in discovery.ATTRIBUTES:
            raise PluginError(f"'plugins' of the run config has the kind '{printable(kind)}', which is unknown")
        if component(kind, name) is None and (why := _load(kind, name, plugin)):
            source = printable(plugin or "a script or a notebook")
            raise PluginError(
                f"the run uses the {kind} '{printable(name)}' of {source}, {why}; give the file that has it "
                "(--plugin FILE, or vitkit.plugins.load)"
            )


def _load(kind: str, name: str, plugin: str) -> str:
    """Loads the plug-in of a component. Returns the reason if the component is still missing, else ""."""
    if not plugin:
        return "which is not loaded"
    try:
        if plugin.endswith(".py"):
            resolve(kind, f"{plugin}:{name.rpartition('.')[2]}")
        else:
            discovery.load(plugin)
    except PluginError as error:
        return f"which cannot be used: {error}"
    return "" if component(kind, name) is not None else "which does not have it any more"
