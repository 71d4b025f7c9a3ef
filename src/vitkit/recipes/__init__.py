"""Recipes: functions that return a whole `Run`; a docstring gives the command, the time and the number to expect.

A recipe is a public function annotated `-> Run` in a file of this folder, named `file.function`: `digits.tiny`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

from vitkit.config import nearest
from vitkit.train.run import Run


def recipes() -> dict[str, Callable[[], Run]]:
    """Every recipe by its name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        members = inspect.getmembers(importlib.import_module(f"{__name__}.{module.name}"), inspect.isfunction)
        for name, function in members:
            if not name.startswith("_") and inspect.signature(function).return_annotation is Run:
                found[f"{module.name}.{name}"] = function
    return found


def recipe(name: str) -> Run:
    """The run of the recipe of that name; ValueError that lists the near ones for an unknown name."""
    known = recipes()
    if name not in known:
        raise ValueError(f"unknown recipe '{name}'{nearest(name, known)}")
    return known[name]()
