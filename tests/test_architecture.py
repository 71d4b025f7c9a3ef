"""The rules of the design, checked on the syntax trees: levels, cycles, names, sizes and imports."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import vitkit

ROOT = Path(vitkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file imports only from lower levels or from its own folder; `models` and `data` do not import each other.
LEVELS: dict[str, float] = {
    "kernels": -1, "config": 0, "task": 0, "discovery": 0.05, "references": 0.07, "registry": 0.1, "atomic": 0,
    "memory": 0, "distributed": 0, "text": 0, "regular": 0, "logs": 0.1, "tables": 0.2, "screen": 0,
    "layers": 0.5, "images": 0.5,
    "models": 1, "data": 1,
    "checkpoints": 1.5,  # a teacher is a checkpoint
    "explanation": 1.8,  # attention maps are evaluated, too
    "inference": 2, "objectives": 2, "evaluation": 2,
    "report": 2.5,
    "training": 3, "recipes": 4, "transformers": 4, "timm": 4, "jax": 3.5,
    "bench": 5, "paper": 5,
    "api": 5.5,
    "plugins": 5.7,
    "cli": 6, "__main__": 7,
}  # fmt: skip
VAGUE = {"utils", "util", "common", "misc", "helpers", "helper", "base", "core", "manager", "tools", "stuff"}
# Oracles of the tests, and packages that only one place may import.
NEVER = {"torchvision", "timm", "transformers"}
PEERS = "bench/peers/"  # the peers of a benchmark, imported in a process of their own
ONLY_IN = {
    "torch.distributed": ["distributed.py", "training/checkpointing/"],
    "matplotlib": ["explanation/_plots.py"],
    "starlette": ["serve/"],
    "jax": ["jax/", "transformers/"],
    "vitkit.jax": ["__init__.py", "jax/", "transformers/", "cli/"],
}
# Modules that macOS or Windows lacks: importing them at module level would break the package there.
PLATFORM = {"resource", "fcntl", "termios", "pwd", "grp", "posix", "msvcrt", "winreg"}
MOST_LINES = 400
FEWEST_LINES = 40
MOST_FUNCTION_LINES = 50
MOST_COMMAND_LINES = 60
MOST_PARAMETERS = 7
# Files that may be short: entry points, folders with one file per implementation, and module paths of transformers.
SHORT = (
    "__init__.py",
    "__main__.py",
    "api/",
    "bench/kinds/",
    "bench/peers/",
    "cli/",
    "evaluation/",
    "paper/",
    "training/optim/",
)
SHORT += ("transformers/models/",)
SHORT_FILES = {
    "timm/data/constants.py",  # a module that timm's users import by this path
    "layers/mode.py",  # used by inference, evaluation, explanations and reports
    "transformers/recognition.py",  # used by outputs and by image processors, which import each other's users
    "data/processor/on_device.py",  # imports torch, which the processor itself does not
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that a file imports, inside functions and TYPE_CHECKING, too."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute"
            module = each.module or ""
            # `from vitkit.models import vit` imports the module vitkit.models.vit.
            names = [f"{module}.{alias.name}" for alias in each.names]
            yield from (one if one in MODULES else module for one in names)


def module(path: Path) -> str:
    return ".".join(["vitkit", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def folder(path: Path) -> str:
    return name(path).split("/")[0].removesuffix(".py")


def test_every_folder_has_a_level() -> None:
    assert {folder(path) for path in FILES} - set(LEVELS) == {"__init__"}


def test_files_import_only_from_lower_levels_or_their_own_folder() -> None:
    wrong = []
    for path in FILES:
        if folder(path) == "__init__":
            continue  # the lazy imports of the package may refer to every folder
        for imported in imports(tree(path)):
            parts = imported.split(".")
            if parts[0] != "vitkit" or len(parts) == 1 or parts[1] not in LEVELS or parts[1] == folder(path):
                continue
            if LEVELS[parts[1]] >= LEVELS[folder(path)]:
                wrong.append(f"{name(path)} imports {imported}")
    assert not wrong


def test_there_are_no_import_cycles() -> None:
    graph = {
        one: {other for other in imports(tree(path)) if other in MODULES and other != one}
        for one, path in MODULES.items()
        if one != "vitkit"
    }
    done: set[str] = set()

    def visit(one: str, trail: tuple[str, ...]) -> None:
        assert one not in trail, f"import cycle: {' -> '.join([*trail[trail.index(one) :], one])}"
        if one not in done:
            for other in sorted(graph.get(one, ())):
                visit(other, (*trail, one))
            done.add(one)

    for one in sorted(graph):
        visit(one, ())


def test_models_and_data_do_not_import_each_other() -> None:
    for path in FILES:
        other = {"models": "vitkit.data", "data": "vitkit.models"}.get(folder(path))
        if other:
            assert not [one for one in imports(tree(path)) if one.startswith(other)], name(path)


def test_some_packages_are_imported_in_one_place_only() -> None:
    wrong = []
    for path in FILES:
        for imported in imports(tree(path)):
            if not name(path).startswith(PEERS) and imported.split(".")[0] in NEVER:
                wrong.append(f"{name(path)} imports {imported}, an oracle of the tests")
            for package, homes in ONLY_IN.items():
                inside = imported == package or imported.startswith(package + ".")
                if inside and not name(path).startswith(tuple(homes)):
                    wrong.append(f"{name(path)} imports {imported}; only {homes} may")
    assert not wrong


def test_platform_specific_modules_are_not_imported_at_module_level() -> None:
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not {one.split(".")[0] for one in imports(node)} & PLATFORM, name(path)


def test_files_have_limited_sizes_and_meaningful_names() -> None:
    wrong = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        assert path.stem not in VAGUE, name(path)
        assert text.isascii(), f"{name(path)}: code is ASCII"
        if lines > MOST_LINES:
            wrong.append(f"{name(path)} has {lines} lines")
        short = name(path) in SHORT_FILES or any(reason in name(path) for reason in SHORT)
        if lines < FEWEST_LINES and not short:
            wrong.append(f"{name(path)} has {lines} lines: merge it, or add it to SHORT with a reason")
    assert not wrong


def test_functions_are_small_and_documented() -> None:
    wrong = []
    for path in FILES:
        assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"
        most = MOST_COMMAND_LINES if name(path).startswith("cli/") else MOST_FUNCTION_LINES
        for node, nested in functions(tree(path)):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue  # the function that follows has the docstring
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            positional = [each for each in node.args.posonlyargs + node.args.args if each.arg != "self"]
            if any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list):
                continue
            if lines > most:
                wrong.append(f"{name(path)}: {node.name} has {lines} lines")
            if len(positional) > MOST_PARAMETERS:
                wrong.append(f"{name(path)}: {node.name} has {len(positional)} positional parameters")
            if not (node.name.startswith("_") or nested or ast.get_docstring(node)):
                wrong.append(f"{name(path)}: {node.name} has no docstring")
    assert not wrong


def test_docstrings_start_with_a_short_line() -> None:
    long = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n")[0]
                if not first.endswith((".", ":", "?", "")) or len(first) > 120:
                    long.append(f"{name(path)}: {first}")
    assert not long


def functions(node: ast.AST, nested: bool = False) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Yields every function, and whether it is nested in another one."""
    for each in ast.iter_child_nodes(node):
        inside = isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        if inside:
            yield each, nested
        yield from functions(each, nested or inside)
