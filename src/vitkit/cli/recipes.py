"""The `vitkit recipes` command."""

import json as json_format
from typing import Annotated

from tyro.conf import Positional, arg


def recipes(name: Annotated[Positional[str], arg(metavar="NAME")] = "", *, json: bool = False) -> None:
    """List the training recipes.

    With the full name of a recipe, prints its description, its command and the expected result.

    Args:
        name: List only the recipes whose name contains this text.
        json: Print one line of JSON per recipe.
    """
    from vitkit import recipes as book
    from vitkit.config import nearest

    known = book.recipes()
    found = {each: entry.description for each, entry in known.items() if name in each}
    if not found:
        raise ValueError(f"no recipe name contains '{name}'{nearest(name, known)}")
    if json:
        for each, text in found.items():
            print(json_format.dumps({"name": each, "text": text}))
    elif name in known:
        print(found[name])
    else:
        width = max(map(len, found))
        for each, text in found.items():
            print(f"{each:<{width}}  {text.splitlines()[0]}")
