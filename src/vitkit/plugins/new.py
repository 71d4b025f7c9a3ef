"""Writes a file to start a plug-in from: a complete component of a kind, under a new name."""

import keyword
import re
from importlib.resources import files
from pathlib import Path

from vitkit import discovery
from vitkit.config import nearest
from vitkit.discovery import PluginError

# The kinds that have a file in templates/.
KINDS = ("model", "objective", "source", "recipe", "evaluator", "explanation")


def new(kind: str, name: str, folder: str | Path = ".") -> Path:
    """Writes the file FOLDER/NAME.py with a complete component of a kind, and returns its path.

    Raises PluginError for an unknown kind, for a name that is not that of a module or that a built-in component has,
    and if the file exists.
    """
    if kind not in KINDS:
        raise PluginError(f"there is no file to start a '{kind}' from{nearest(kind, KINDS)}")
    name = name.removesuffix(".py")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise PluginError(f"the name is '{name}'; expected lower-case letters, digits and '_', such as my_{kind}")
    if name in discovery.builtin(kind):
        raise PluginError(f"vitkit has a built-in {kind} named '{name}'; choose another name, such as my_{name}")
    path = Path(folder) / f"{name}.py"
    text = files("vitkit.plugins.templates").joinpath(f"{kind}.py").read_text(encoding="utf-8")
    for old, replaced in _spellings(f"my_{kind}", name).items():
        text = re.sub(rf"(?<![A-Za-z0-9]){old}(?![A-Za-z0-9])", replaced, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:  # never replaces a file, also not one made at the same time
            file.write(text)
    except FileExistsError:
        raise PluginError(f"the file {path} exists; choose another name, or move the file first") from None
    return path


def _spellings(old: str, name: str) -> dict[str, str]:
    """Returns how the name is written in code, in presets, and as a class."""
    forms = (lambda word: word, lambda word: word.replace("_", "-"), lambda word: word.title().replace("_", ""))
    return {form(old): form(name) for form in forms}
