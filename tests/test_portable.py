"""What only some systems have, and what would change the whole process, is used only where it is handled."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import vitkit
from vitkit import atomic, memory
from vitkit.bench import Plan, measure
from vitkit.training import events

ROOT = Path(vitkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Modules of the standard library that Windows lacks.
UNIX = ("crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
# And functions: of the C library, of Linux, or of Unix.
SOME_SYSTEMS = ("CDLL", "PyDLL", "find_library", "fork", "getuid", "mkfifo", "sched_getaffinity", "sysconf", "uname")
# Functions that change settings of the whole process, and the files that may call them: on request, or in a process of
# their own (the workers of `vitkit bench`), or for a measurement that is defined on one thread (`vitkit paper`).
PROCESS_WIDE = {
    "set_num_threads": {
        "bench/peers/torchvision.py",
        "bench/roofline.py",
        "bench/torch_network.py",
        "paper/figure12.py",
        "paper/figure13.py",
        "training/setup.py",
    },
    "set_num_interop_threads": set(),
    "set_float32_matmul_precision": {"training/setup.py"},
    "set_default_dtype": set(),
    "set_default_device": set(),
    "set_start_method": set(),
    "use_deterministic_algorithms": set(),
    "mallopt": {"memory.py"},
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are run when a module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
                yield from ast.walk(part) if part is not None else ()
        elif not isinstance(node, ast.Lambda):
            yield from at_import(node)


def portable(source: str) -> list[str]:
    """What of a module's top level only some systems have."""
    found = []
    for node in at_import(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in UNIX]
        elif isinstance(node, ast.ImportFrom) and node.module in UNIX:
            found.append(node.module)
        elif isinstance(node, ast.Attribute) and node.attr in SOME_SYSTEMS:
            found.append(ast.unparse(node))
    return found


def test_no_import_needs_what_only_some_systems_have() -> None:
    assert {name(path): found for path in FILES if (found := portable(path.read_text()))} == {}


def test_the_check_finds_them() -> None:
    for line in ("import resource", "from fcntl import flock", "x = ctypes.CDLL(None)", "def f(a=os.getuid()): ..."):
        assert portable(line), line
        assert portable(f"class A:\n    {line}"), line
    assert portable("def f():\n    import resource\n    ctypes.CDLL(None)") == []


@pytest.mark.slow  # the check of the syntax trees above runs by default
def test_every_module_is_imported_where_they_are_missing() -> None:
    """As on Windows: an import of one of them from vitkit fails. Modules of extras that are not installed say so."""
    modules = [
        ".".join(("vitkit", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py" and not name(path).startswith("jax/")
    ]
    code = f"""
import builtins, importlib, sys
plain = builtins.__import__
def guarded(name, globals=None, *rest):
    if name in {UNIX!r} and (globals or {{}}).get("__name__", "").startswith("vitkit"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return plain(name, globals, *rest)
builtins.__import__ = guarded
for module in {modules!r}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        if "vitkit[" not in str(error):
            sys.exit(f"{{module}}: {{error}}")
from vitkit import memory
assert memory.peak() == memory.peak(children=True) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_peak_memory_is_measured_in_bytes() -> None:
    pytest.importorskip("resource", reason="Windows has no meter")
    assert 10 * 2**20 < memory.peak() < 2**40
    subprocess.run([sys.executable, "-c", "x = bytes(2**20)"], check=True)
    assert 2**20 < memory.peak(children=True) < 2**40


def test_a_log_has_no_memory_where_there_is_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with events.Events(tmp_path / "log.jsonl", total=1, batch_size=4, every=1) as bar:
        bar.step(1, {"loss": 2.0})
    assert "memory_gb" not in events.read(tmp_path / "log.jsonl")[0]


def test_windows_flushes_files_and_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    opened: list[tuple[Path, int]] = []
    plain = os.open

    def recorded(path: Path, flags: int) -> int:
        opened.append((path, flags))
        return plain(path, flags)

    monkeypatch.setattr(os, "open", recorded)
    for platform, wanted in (
        ("win32", [(tmp_path / "file", os.O_RDWR)]),
        ("linux", [(tmp_path, os.O_RDONLY), (tmp_path / "file", os.O_RDONLY)]),
    ):
        opened.clear()
        monkeypatch.setattr(sys, "platform", platform)
        atomic.flush(tmp_path)
        atomic.flush(tmp_path / "file")
        assert opened == wanted


def test_bench_is_refused_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="bench needs Linux or macOS"):
        measure.measure(measure.parse_options("startup", {}), Plan())


def test_settings_of_the_whole_process_are_made_in_few_places() -> None:
    users: dict[str, set[str]] = {setting: set() for setting in PROCESS_WIDE}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            used = getattr(node, "attr", getattr(node, "value", None))
            if isinstance(used, str) and used in users:
                users[used].add(name(path))
    assert users == PROCESS_WIDE


# Scripts that run in an environment that has the library.
WITH_LIBRARY = ("oracle_", "user_code")


def test_tests_import_peers_through_oracle_only() -> None:
    """Without these libraries, the folders tests/transformers and tests/timm would be imported under their names."""
    found = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        if path.name.startswith(WITH_LIBRARY):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] in ("transformers", "timm")]
    assert found == []
