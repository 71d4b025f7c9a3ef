"""The examples of docs/plugins.md are complete files that pass `vitkit check`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vitkit import models, plugins
from vitkit.discovery import ATTRIBUTES

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"
FILES = {
    name: code
    for code in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name in re.findall(r"\A# (\w+\.py)\n", code)
}


def test_every_kind_has_an_example(write: Callable[[str, str], str]) -> None:
    found = {each.kind for name, code in FILES.items() for each in plugins.load(write(name, code))}
    assert found == set(ATTRIBUTES)
    assert models.preset("patch-mean/16").width == 192


@pytest.mark.parametrize("name", FILES)
def test_an_example_passes_the_checks(name: str, write: Callable[[str, str], str]) -> None:
    report = plugins.check(write(name, FILES[name]))
    assert report, str(report)
    assert "failed" not in str(report)
