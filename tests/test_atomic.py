"""Atomic writes: a crash at any moment leaves the old or the new content, and no other code renames files."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import vitkit
from vitkit import atomic

ROOT = Path(vitkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
OLD, NEW = b"old" * 40_000, b"new" * 50_000
# Exits just before the nth call that changes the file system.
CRASH = """
import os, sys
from pathlib import Path
from vitkit import atomic
at, calls = int(sys.argv[2]), []
def counted(call):
    def wrapper(*args, **kwargs):
        calls.append(call)
        if len(calls) == at:
            os._exit(9)
        return call(*args, **kwargs)
    return wrapper
for name in ("open", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "chmod"):
    setattr(os, name, counted(getattr(os, name)))
def write_halves(path):
    with open(path, "wb") as file:
        file.write(new[: len(new) // 2])
        file.flush()
        os.fsync(file.fileno())
        file.write(new[len(new) // 2 :])
new = b"new" * 50_000
target = Path(sys.argv[1])
if sys.argv[3] == "file":
    atomic.write_file(target, write_halves)
else:
    atomic.write_folder(target, lambda folder: [write_halves(folder / name) for name in ("a", "b")])
print(len(calls))
"""


def crash(target: Path, at: int, kind: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(target), str(at), kind], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 9), done.stderr
    return done


def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    contents = set()
    for at in range(1, 100):
        target = tmp_path / f"{at}" / "file"
        target.parent.mkdir()
        target.write_bytes(OLD)
        done = crash(target, at, "file")
        content = target.read_bytes()
        assert content in (OLD, NEW)
        contents.add(content)
        if done.returncode == 0:
            assert content == NEW
            assert [path.name for path in target.parent.iterdir()] == ["file"]
            break
    else:
        pytest.fail("the write never finished")
    assert at > 5
    assert contents == {OLD, NEW}


def test_a_crash_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    """Between the two renames the complete old folder has a hidden name."""
    contents = set()
    for at in range(1, 100):
        target = tmp_path / f"{at}" / "folder"
        target.mkdir(parents=True)
        for name in ("a", "b"):
            (target / name).write_bytes(OLD)
        done = crash(target, at, "folder")
        hidden = list(target.parent.glob(f".folder.*{atomic.OLD}{atomic.PART}"))
        present = target if target.exists() else hidden[0]
        content = {path.name: path.read_bytes() for path in present.iterdir()}
        assert content in ({"a": OLD, "b": OLD}, {"a": NEW, "b": NEW})
        contents.add(content["a"])
        if done.returncode == 0:
            assert content["a"] == NEW
            assert [path.name for path in target.parent.iterdir()] == ["folder"]
            break
    else:
        pytest.fail("the write never finished")
    assert at > 10
    assert contents == {OLD, NEW}


def test_content_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def record_replace(part: Path, target: Path) -> None:
        events.append(("replace", part.name))
        replace(part, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    atomic.write_text(tmp_path / "x.json", "{}")
    part = events[0][1]
    assert part.startswith(".x.json.")
    assert events == [("fsync", part), ("replace", part), ("fsync", tmp_path.name)]


def test_an_error_leaves_the_target_unchanged(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        (path / "half" if path.is_dir() else path).write_bytes(NEW)
        raise OSError("no space left on the device")

    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(OLD)
    for name, write in (("file", atomic.write_file), ("folder", atomic.write_folder)):
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path / name, fails)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "file",
        "folder",
        "folder/a",
    ]
    assert (tmp_path / "file").read_bytes() == (tmp_path / "folder" / "a").read_bytes() == OLD


def test_files_have_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    plain, folder = (tmp_path / "plain").stat().st_mode, (tmp_path / "folder").stat().st_mode

    def private(path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        path.chmod(0o600)

    atomic.write_file(tmp_path / "x", private)
    atomic.write_folder(tmp_path / "y", lambda part: private(part / "inside"))
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y" / "inside").stat().st_mode == plain
    assert (tmp_path / "y").stat().st_mode == folder


def test_a_device_is_written_directly(tmp_path: Path) -> None:
    atomic.write_bytes(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()


def parsed(code: str) -> tuple[ast.AST, ...]:
    """Returns all nodes of the syntax tree."""
    return tuple(ast.walk(ast.parse(code)))


@cache
def findings() -> dict[str, tuple[list[int], list[int]]]:
    """Returns the lines of each file that rename files, and those with plain writes; every file is parsed once."""
    trees = ((path, parsed(path.read_text(encoding="utf-8"))) for path in FILES)
    return {path.relative_to(ROOT).as_posix(): (renames(tree), plain_writes(tree)) for path, tree in trees}


def renames(tree: tuple[ast.AST, ...]) -> list[int]:
    """Returns the lines that call os.replace, os.rename, shutil.move, os.fsync, Path.replace or Path.rename."""
    lines = []
    for node in tree:
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            lines += [
                node.lineno for each in node.names if each.name in ("replace", "rename", "renames", "move", "fsync")
            ]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, method = node.func.value, node.func.attr
        module = owner.id if isinstance(owner, ast.Name) else ""
        by_module = (module, method) in {("os", name) for name in ("replace", "rename", "renames", "fsync")}
        # Methods of paths have one argument; those of strings and dataclasses have two, or keywords.
        by_path = method in ("rename", "replace") and len(node.args) == 1 and not node.keywords
        if by_module or by_path or (module, method) == ("shutil", "move"):
            lines.append(node.lineno)
    return lines


def test_no_other_code_renames_or_flushes_files() -> None:
    found = {name: lines for name, (lines, _) in findings().items() if lines}
    assert found.keys() == {"atomic.py"}, f"use vitkit.atomic instead in these lines: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.replace(a, b)",
        "from os import rename",
        "path.rename(b)",
        "a.b.replace(c)",
        "import shutil\nshutil.move(a, b)",
    ],
)
def test_the_check_finds_all_calls_that_rename(code: str) -> None:
    assert renames(parsed(code))
    assert not renames(parsed("text.replace('a', 'b')\ndataclasses.replace(config, width=3)"))


# Files that may write without `atomic`: to temporary paths that `atomic` publishes, to the log of a run, which is
# appended to, to pipes, /proc and /dev/null.
WRITES = {
    "atomic.py", "checkpoints/json_files.py", "checkpoints/containers/npz.py", "cli/embed.py",
    "explanation/__init__.py", "inference/_files.py", "plugins/new.py",
    "explanation/_plots.py", "jax/npz.py", "training/checkpointing/files.py", "training/events.py", "bench/worker.py",
    "cli/_streams.py",
}  # fmt: skip


def plain_writes(tree: tuple[ast.AST, ...]) -> list[int]:
    """Returns the lines that open a file for writing, or write text, bytes or a figure to a path."""
    lines = []
    for node in tree:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            modes = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            opens = method == "open" and any(set(mode) & set("wax") and len(mode) <= 3 for mode in modes)
            if method in ("write_text", "write_bytes") and ast.unparse(node.func).startswith("atomic."):
                continue
            if opens or method in ("write_text", "write_bytes", "savefig", "fdopen"):
                lines.append(node.lineno)
    return lines


def test_plain_writes_occur_in_known_files_only() -> None:
    found = {name: lines for name, (_, lines) in findings().items() if lines and name not in WRITES}
    assert not found, f"use vitkit.atomic instead in these lines: {found}"


@pytest.mark.parametrize("code", ["open(path, 'w')", "path.write_text(text)", "figure.savefig(path)", "os.fdopen(1)"])
def test_the_check_finds_all_plain_writes(code: str) -> None:
    assert plain_writes(parsed(code))
    assert not plain_writes(parsed("atomic.write_text(path, text)\nopen(path)\nopen(path, 'rb')"))
