"""A model family and a recipe are one new file each: contract tests over files added to a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vitkit
from vitkit.plugins.new import new

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "tests", "name"),
    [
        ("models/patch_mean.py", ["models/test_contracts.py", "models/test_backbone_structure.py"], "patch"),
        ("recipes/extra.py", ["recipes/test_recipes.py"], "extra.small"),
    ],
    ids=["model", "recipe"],
)
def test_the_contract_tests_pass_for_an_added_file(file: str, tests: list[str], name: str, tmp_path: Path) -> None:
    """The file that `vitkit new` writes is also one that a folder of vitkit takes."""
    package = tmp_path / "vitkit"
    shutil.copytree(Path(vitkit.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    new(file.partition("s/")[0], Path(file).stem, (package / file).parent)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name, *tests],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
