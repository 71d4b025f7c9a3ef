"""The design's rules, read from the syntax trees: levels, file names and sizes, and what may import what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vitkit

ROOT = Path(vitkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file imports only from lower levels or from its own folder; `models` and `data` do not know each other.
LEVELS: dict[str, float] = {
    "kernels": -1,
    "config": 0, "memory": 0, "parallel": 0, "layers": 0, "images": 0,
    "models": 1, "data": 1,
    "checkpoints": 1.5,  # a teacher is a checkpoint
    "explain": 1.8,  # attention is judged too
    "engine": 1.5,
    "objectives": 2, "evaluate": 2,
    "train": 3, "predict": 3, "jax": 3.5,
    "transformers": 4, "serve": 4, "export": 4, "recipes": 4,
    "bench": 5,
    "paper": 5,
    "cli": 6, "__main__": 7,
}  # fmt: skip
SAYS_NOTHING = {"utils", "util", "common", "misc", "helpers", "helper", "base", "core", "manager", "tools", "stuff"}
# Oracles of the tests, and what a run-time file may import only in its one place.
NEVER = {"torchvision", "timm", "transformers"}
PEERS = "bench/peers/"  # what is measured beside vitkit, imported where it is run: in a process of its own
ONLY_IN = {
    "torch.distributed": ["parallel.py", "train/shards.py", "train/pieces.py"],  # sharded states
    "matplotlib": ["explain/plots.py"],
    "starlette": ["serve/http.py"],
    "jax": ["jax/", "transformers/flax.py"],
    "vitkit.jax": ["__init__.py", "jax/", "transformers/", "cli/"],
}
MOST_LINES = 250
MOST_FUNCTION_LINES = 40
MOST_COMMAND_LINES = 60
MOST_PARAMETERS = 7


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, inside functions and TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            # `from vitkit import checkpoints` imports the folder, not the top.
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "vitkit" else [module]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_imports_only_from_lower_levels_or_its_own_folder(path: Path) -> None:
    place = name(path).split("/")[0].removesuffix(".py")
    if place == "__init__":
        return  # the lazy front door may name every folder
    assert place in LEVELS, f"{place} has no level: add it to the design and to LEVELS"
    for module in imports(ast.parse(path.read_text())):
        parts = module.split(".")
        if parts[0] != "vitkit" or len(parts) == 1 or parts[1] not in LEVELS or parts[1] == place:
            continue
        other = parts[1]
        assert LEVELS[other] < LEVELS[place], f"{name(path)} (level {LEVELS[place]}) imports {module} ({LEVELS[other]})"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_models_and_data_do_not_know_each_other(path: Path) -> None:
    other = {"models": "vitkit.data", "data": "vitkit.models"}.get(name(path).split("/")[0])
    if other:
        assert not [module for module in imports(ast.parse(path.read_text())) if module.startswith(other)]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_forbidden_and_fenced_imports(path: Path) -> None:
    for module in imports(ast.parse(path.read_text())):
        if not name(path).startswith(PEERS):
            assert module.split(".")[0] not in NEVER, f"{module} is an oracle of the tests, never a dependency"
        for fenced, homes in ONLY_IN.items():
            if module == fenced or module.startswith(fenced + "."):
                assert any(name(path).startswith(home) for home in homes), f"only {homes} may import {fenced}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_small_and_its_name_says_something(path: Path) -> None:
    assert path.stem not in SAYS_NOTHING
    assert len(path.read_text().splitlines()) <= MOST_LINES
    text = path.read_text()
    assert text.isascii(), "code is ASCII"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_functions_are_small_and_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says what it is for"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        assert lines <= (MOST_COMMAND_LINES if name(path).startswith("cli/") else MOST_FUNCTION_LINES), (
            f"{node.name} has {lines} lines"
        )
        positional = [argument for argument in node.args.posonlyargs + node.args.args if argument.arg != "self"]
        assert len(positional) <= MOST_PARAMETERS, f"{node.name} takes {len(positional)} positional parameters"
        if not node.name.startswith("_"):
            nested = any(node in ast.walk(outer) for outer in ast.walk(tree)
                         if isinstance(outer, ast.FunctionDef) and outer is not node)  # fmt: skip
            assert nested or ast.get_docstring(node), f"{node.name} is public and says nothing"
