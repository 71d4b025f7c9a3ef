"""Creates plug-in files from the templates."""

import keyword
import re
from importlib.resources import files
from pathlib import Path

from vitkit import discovery
from vitkit.config import nearest
from vitkit.discovery import PluginError

# The kinds with a file in templates/.
KINDS = ("model", "objective", "source", "recipe", "evaluator", "explanation")


def new(kind: str, name: str, folder: str | Path = ".") -> Path:
    """Writes FOLDER/NAME.py, a complete component of a kind to start from, and returns its path.

    Raises PluginError if the kind is unknown, if the name is not a valid module name or is that of a built-in
    component, and if the file exists.
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
        with path.open("x", encoding="utf-8") as file:  # fails if another process has created the file
            file.write(text)
    except FileExistsError:
        raise PluginError(f"the file {path} exists; choose another name, or move the file first") from None
    return path


def _spellings(old: str, name: str) -> dict[str, str]:
    """Maps each spelling of the old name (in code, in presets, as a class) to that of the new name."""
    forms = (lambda word: word, lambda word: word.replace("_", "-"), lambda word: word.title().replace("_", ""))
    return {form(old): form(name) for form in forms}
