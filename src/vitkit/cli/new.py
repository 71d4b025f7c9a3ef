"""The `vitkit new` command."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Kind = Literal["model", "objective", "source", "recipe", "evaluator", "explanation"]


def new(
    kind: Annotated[Positional[Kind], arg(metavar="KIND")],
    name: Annotated[Positional[str], arg(metavar="NAME")],
    *,
    out: Path = Path(),
) -> None:
    """Write a template file for a new plug-in.

    Writes NAME.py with a small, complete and commented component that passes `vitkit check ./NAME.py`. An existing file
    is not overwritten.

    Args:
        kind: Kind of component to write: model, objective, source, recipe, evaluator or explanation.
        name: Name of the component and of the file. Use lowercase letters, digits and underscores.
        out: Folder to write the new file to.
    """
    from vitkit.plugins import new as plugin_file

    path = plugin_file.new(kind, name, out)
    print(f"{path}: a complete {kind}; edit it, and run `vitkit check {path}`")
