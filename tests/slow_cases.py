"""Cases of a test of which a few run by default and all run with the slow tests."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def slow_except(cases: Mapping[Any, Any] | Iterable[Any], *fast: Any) -> list[Any]:
    """Values of one parameter of a test: all but the fast ones, or those of the fast names, are marked slow."""
    named = dict(cases) if isinstance(cases, Mapping) else {case: case for case in cases}
    missing = [name for name in fast if name not in named]
    assert fast, "at least one case is fast"
    assert not missing, f"there is no case {missing}; there is {list(named)}"
    marks = {name: () if name in fast else pytest.mark.slow for name in named}
    return [pytest.param(case, id=str(name), marks=marks[name]) for name, case in named.items()]
