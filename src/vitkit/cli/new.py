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
    """Write a file to start a plug-in from.

    Writes NAME.py with a small, complete and commented component, which passes `vitkit check ./NAME.py`. An existing
    file is never replaced.

    Args:
        kind: Kind of the component: model, objective, source, recipe, evaluator or explanation.
        name: Name of the component and of the file: lower-case letters, digits and underscores.
        out: Folder of the file.
    """
    from vitkit.plugins import new as plugin_file

    path = plugin_file.new(kind, name, out)
    print(f"{path}: a complete {kind}; edit it, and run `vitkit check {path}`")
