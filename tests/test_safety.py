"""Checks of the source code: no deserialization of code, no shell, no unpacking of archives."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vitkit

ROOT = Path(vitkit.__file__).parent
SCRIPTS = Path(__file__).parents[1]
FILES = sorted([*ROOT.rglob("*.py"), *(SCRIPTS / "scripts").rglob("*.py"), *(SCRIPTS / "docs").rglob("*.py")])

# Modules and functions that deserialize or evaluate code; they are forbidden under any alias.
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml", "ruamel", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
EXTRACTS = {"extract", "extractall", "unpack_archive"}
# The module that may call torch.load, and only with weights_only=True: training checkpoints of our own.
TORCH_LOAD = {"training/checkpointing/files.py"}


def dotted(node: ast.AST) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    # `load(path).eval()` is a method call, not the builtin.
    root = node.id if isinstance(node, ast.Name) else "<value>"
    return ".".join([root, *reversed(parts)])


def keywords(call: ast.Call) -> dict[str, object]:
    return {word.arg: getattr(word.value, "value", ast.dump(word.value)) for word in call.keywords if word.arg}


def aliases(tree: ast.AST) -> dict[str, str]:
    """Maps local names to full names: {"load": "torch.load"} for `from torch import load`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def findings(source: str, place: str = "somewhere.py") -> Iterator[str]:
    """Yields every violation in the source of one file."""
    tree = ast.parse(source)
    known = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {module}" for module in modules if module.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            yield from call_findings(node, known, place)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                name = dotted(target)
                if name.endswith(("MAX_IMAGE_PIXELS", "LOAD_TRUNCATED_IMAGES")):
                    yield f"sets {name}, which every thread and library shares"


def call_findings(call: ast.Call, known: dict[str, str], place: str) -> Iterator[str]:
    """Yields every violation in one call."""
    name = dotted(call.func)
    head, _, rest = name.partition(".")
    full = ".".join(filter(None, [known.get(head, head), rest]))
    given = keywords(call)
    last = full.rpartition(".")[2]
    if full in CALLS or full.removeprefix("builtins.") in CALLS:
        yield f"calls {full}"
    if full == "torch.load" and (place not in TORCH_LOAD or given.get("weights_only") is not True):
        yield "calls torch.load without weights_only=True, or outside its modules"
    if given.get("allow_pickle", False) is not False:
        yield "allows pickles in an array file"
    if given.get("shell", False) is not False or full in ("os.system", "os.popen"):
        yield "runs a shell"
    if given.get("trust_remote_code", False) is not False:
        yield "trusts code from elsewhere"
    if given.get("weights_only", True) is not True:
        yield "unpickles more than weights"
    if last in EXTRACTS:
        yield f"calls {last}: archives are read member by member, never unpacked"
    if last == "setattr" and any("MAX_IMAGE_PIXELS" in ast.dump(argument) for argument in call.args):
        yield "sets MAX_IMAGE_PIXELS"


def test_no_file_has_a_violation() -> None:
    places = {path: path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name for path in FILES}
    every = {place: list(findings(path.read_text(encoding="utf-8"), place)) for path, place in places.items()}
    assert {place: found for place, found in every.items() if found} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "import yaml",
        "eval('1')",
        "exec(code)",
        "__import__('os')",
        "import builtins\nbuiltins.eval('1')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch as t\nt.load(path, weights_only=True)",
        "from torch import load\nload(path)",
        "from torch import load as read\nread(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "archive.extractall(folder)",
        "tar.extract(member)",
        "from PIL import Image\nImage.MAX_IMAGE_PIXELS = None",
        "from PIL import ImageFile\nImageFile.LOAD_TRUNCATED_IMAGES = True",
        "setattr(Image, 'MAX_IMAGE_PIXELS', None)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_checks_find_violations(source: str) -> None:
    assert list(findings(source))


def test_the_checks_accept_safe_code() -> None:
    safe = "import re\nimport numpy as np\nnp.load(path, allow_pickle=False)\nre.compile('x')\n"
    safe += "model.eval()\nload(path).eval()\n"
    assert list(findings(safe)) == []
    (allowed, *_) = TORCH_LOAD
    assert list(findings("import torch\ntorch.load(path, weights_only=True)", allowed)) == []
