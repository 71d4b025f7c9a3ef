"""The `vitkit recipes` command."""

import json as json_format
from typing import Annotated

from tyro.conf import Positional, arg


def recipes(name: Annotated[Positional[str], arg(metavar="NAME")] = "", *, json: bool = False) -> None:
    """List the training recipes.

    If NAME is the full name of a recipe, prints its description, the command to run it and the expected result.

    Args:
        name: List only the recipes whose name contains this text, or matches it with the wildcards * and ?.
        json: Print one line of JSON per recipe.
    """
    from vitkit import recipes as book
    from vitkit.api.list_recipes import list_recipes
    from vitkit.config import nearest
    from vitkit.tables import listing

    known = book.recipes()
    found = {each: known[each].description for each in list_recipes(name)}
    if not found:
        raise ValueError(f"no recipe name contains '{name}'{nearest(name, known)}")
    if json:
        for each, text in found.items():
            print(json_format.dumps({"name": each, "text": text}))
    elif name in known:
        print(known[name].description)
    else:
        print(listing([(each, text.splitlines()[0]) for each, text in found.items()]))
