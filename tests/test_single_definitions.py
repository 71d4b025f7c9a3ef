"""Activations, split names and names of model parts are defined once in the package (checks of the syntax trees)."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from oracles import oracle
from torch import nn

import vitkit
from vitkit.data.sources import SPLIT_NAMES, SPLITS, split_of
from vitkit.layers import ActivationName
from vitkit.layers.activations import ACTIVATIONS, CORE, activation, activation_name, names_in

ROOT = Path(vitkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(code: str) -> tuple[ast.AST, ...]:
    """Returns all nodes of the syntax tree."""
    return tuple(ast.walk(ast.parse(code)))


@cache
def findings() -> dict[str, dict[str, list[int]]]:
    """Returns the lines that each check finds, by check and file; every file is parsed once for all checks."""
    checks = (maps_of_activations, lists_of_splits, greps)
    found: dict[str, dict[str, list[int]]] = {check.__name__: {} for check in checks}
    for path in FILES:
        tree = parsed(path.read_text(encoding="utf-8"))
        for check in checks:
            if lines := list(check(tree)):
                found[check.__name__][name(path)] = lines
    return found


def texts(node: ast.AST) -> set[str]:
    """Returns the string constants of a collection, or of the subscript of a type."""
    if isinstance(node, ast.Dict):
        items: list[ast.AST | None] = [*node.keys, *node.values]
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = [*node.elts]
    else:
        return set()
    return {each.value for each in items if isinstance(each, ast.Constant) and isinstance(each.value, str)}


KNOWN = {*ACTIVATIONS, *(theirs for each in ACTIVATIONS.values() for theirs in (*each.transformers, *each.timm))}


def maps_of_activations(tree: tuple[ast.AST, ...]) -> Iterator[int]:
    for node in tree:
        if len(texts(node) & (KNOWN - {"linear", "identity"})) > 2:
            yield node.lineno  # type: ignore[attr-defined]


def test_activations_are_listed_once() -> None:
    found = findings()["maps_of_activations"]
    # _program_check.py has a list of torch's operations, in one string; watch.py names functions of torch.
    allowed = {"layers/activations.py", "inference/runtimes/_program_check.py", "inference/engine/watch.py"}
    assert "layers/activations.py" in found
    assert found.keys() <= allowed, f"use layers.activations in these lines: {found}"


def test_the_check_of_activations_finds_maps() -> None:
    assert list(maps_of_activations(parsed("x = {'gelu': a, 'relu': b, 'silu': c}")))
    assert list(maps_of_activations(parsed("x: Literal['gelu', 'gelu_tanh', 'relu', 'silu'] = 'gelu'")))
    assert not list(maps_of_activations(parsed("x = ('gelu', 'weight')")))


def test_every_backend_supports_all_activations_of_configs() -> None:
    assert set(get_args(ActivationName)) == set(CORE)
    x = torch.linspace(-4, 4, 101)
    for each, row in CORE.items():
        assert row.function is not None
        assert row.onednn is not None or each == "quick_gelu"  # a SiLU in the fused MLP
        assert torch.equal(activation(each)(x), row.function(x))
        assert activation_name(activation(each)) == each
    assert activation_name(nn.Tanh()) is None
    assert activation_name(nn.Linear(2, 2)) is None
    with pytest.raises(
        ValueError, match="unknown activation 'tanh'; choose one of gelu, gelu_tanh, quick_gelu, relu, silu"
    ):
        activation("tanh")


def test_names_of_activations_are_unambiguous() -> None:
    for library in ("transformers", "timm"):
        everything = [theirs for each in ACTIVATIONS.values() for theirs in getattr(each, library)]
        assert len(everything) == len(set(everything))
    # Names that are written to files are read as the same activation.
    for each, row in CORE.items():
        assert names_in("transformers")[row.transformers[0]] == each
        assert names_in("timm")[row.timm[0]] == each


def test_names_of_activations_are_those_of_transformers() -> None:
    """transformers computes each activation under the names in our table."""
    library = oracle("transformers.activations")
    x = torch.linspace(-4, 4, 101)
    assert set(names_in("transformers")) <= set(library.ACT2FN)
    for row in ACTIVATIONS.values():
        # transformers 5 removed some activations that no published ViT uses.
        for theirs in set(row.transformers) & set(library.ACT2FN):
            torch.testing.assert_close(row.module()(x), library.ACT2FN[theirs](x), atol=1e-5, rtol=1e-5)


def test_activations_of_flax_are_those_of_torch() -> None:
    oracle("flax")
    layers = importlib.import_module("vitkit.jax.layers")
    x = torch.linspace(-4, 4, 101)
    assert set(layers.ACTIVATIONS) == set(CORE)
    for each, function in layers.ACTIVATIONS.items():
        found = torch.tensor(function(x.numpy()).tolist())
        torch.testing.assert_close(found, activation(each)(x), atol=1e-5, rtol=1e-5)


def lists_of_splits(tree: tuple[ast.AST, ...]) -> Iterator[int]:
    """Yields the lines of collections with an alias of a split (valid, dev, training, ...) and another split name."""
    split_aliases = set(SPLITS) - set(SPLIT_NAMES)
    for node in tree:
        found = texts(node) & set(SPLITS)
        if found & split_aliases and len(found) > 1:
            yield node.lineno  # type: ignore[attr-defined]


def test_names_of_splits_are_listed_once() -> None:
    found = findings()["lists_of_splits"]
    assert found.keys() == {"data/sources/__init__.py"}, f"use data.sources.SPLITS in these lines: {found}"


def test_the_check_of_splits_finds_lists() -> None:
    assert list(lists_of_splits(parsed("x = {'train': 1, 'validation': 2}")))
    assert not list(lists_of_splits(parsed("x = ('val', 'test', 'all')")))


def test_every_name_of_a_split_is_read_from_file_names() -> None:
    for split, names in SPLIT_NAMES.items():
        for each in names:
            assert split_of(f"{each}-00000-of-00002.parquet") == split_of(f"{each.upper()}/0.parquet") == split
    assert split_of("trainer/photos.tar") is None


# Folders with tables of parameter names, or that define the parts; all other code uses methods of the backbone.
TABLES = ("checkpoints/", "models/", "transformers/", "jax/", "layers/")
PARTS = re.compile(r"(?<![A-Za-z_])(blocks|head|head_dist|cls_token|dist_token|pos_embed|patch_embed)(?![a-z_])")


def greps(tree: tuple[ast.AST, ...]) -> Iterator[int]:
    """Yields lines that search names for a part of a model: `startswith`, `in`, regular expressions or patterns."""

    def means_a_part(node: ast.AST) -> bool:
        constants = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
        return any(isinstance(text, str) and PARTS.search(text) for text in constants)

    for node in tree:
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            looks = called.rpartition(".")[2] in ("startswith", "endswith", "removeprefix", "fnmatch", "fnmatchcase")
            if (looks or called.startswith("re.")) and any(means_a_part(each) for each in node.args):
                yield node.lineno
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn) and means_a_part(node.left):
            yield node.lineno


def test_no_other_code_looks_for_parts_of_a_model_in_names() -> None:
    files = {file: lines for file, lines in findings()["greps"].items() if not file.startswith(TABLES)}
    found = {(file, line_of(ROOT / file, line)) for file, lines in files.items() for line in lines}
    assert found <= NOT_PARTS, f"use the backbone's blocks, layer_of or head_parameters: {found - NOT_PARTS}"


def line_of(path: Path, number: int) -> str:
    return path.read_text().splitlines()[number - 1].strip()


# Lines that select rows of a table of a checkpoint format, not parameters of a model.
NOT_PARTS = {
    ("objectives/mae.py", '*(Rule(name, (f"decoder.{name}",)) for name in OWN if "blocks" not in name),'),
    (
        "objectives/mae.py",
        '*(Rule(f"decoder_{ours}", (theirs,)) for ours, theirs in huggingface.PAIRS.items() if "blocks" in ours),',
    ),
}


@pytest.mark.parametrize(
    "code",
    [
        "name.startswith('head')",
        "name.rpartition('.')[0].endswith('blocks')",
        "re.search(r'(?:^|\\.)blocks\\.(\\d+)\\.', name)",
        "'.blocks.' in name",
        "any(part in name for part in x) or 'pos_embed' in name",
        "fnmatchcase(name, 'head.*')",
    ],
)
def test_the_check_of_part_names_finds_searches(code: str) -> None:
    assert list(greps(parsed(code)))
