"""Installed packages with the entry points `vitkit.plugins`: lists, checks, and packages that fail."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitkit.plugins import new as plugin_file

COMPONENTS = {
    "model": "dotted_model", "objective": "dotted_loss", "source": "dotted_data", "evaluator": "dotted_metric",
    "explanation": "dotted_map", "recipe": "dotted_recipe",
}  # fmt: skip
FORMAT = '''
"""A checkpoint format: vitkit's own, under another name and with another key in config.json."""

import dataclasses
import json

from vitkit.checkpoints.formats.vitkit import FORMAT as OURS


def accepts(config):
    return config is not None and config.get("dotted") is True


def describe(raw):
    return OURS.describe(dataclasses.replace(raw, config={**raw.config, "vitkit": 1}))


def write(checkpoint, folder):
    OURS.write(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["dotted"] = bool(config.pop("vitkit"))
    (folder / "config.json").write_text(json.dumps(config))


FORMAT = dataclasses.replace(
    OURS, name="dotted", targets=("dotted",), accepts=accepts, describe=describe, write=write
)
'''
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "vitkit-dotted"
version = "0.3"

[project.entry-points."vitkit.plugins"]
{entry_points}
"""
LISTS = """
from vitkit import checkpoints, data, evaluation, explanation, models, objectives, recipes
print(*models.families(), *models.presets(), *objectives.objectives(), *data.source_names(), *evaluation.evaluators(),
      *explanation.methods(), *recipes.recipes(), *checkpoints.list_formats())
"""


def run(*words: str, site: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs Python with the packages in a folder."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(site)]),
    }
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 or not check, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a plug-in package with one component of each kind is installed by pip, without network."""
    root, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    package = root / "vitkit_dotted"
    package.mkdir()
    (package / "__init__.py").write_text('"""Plug-ins."""\n')
    for kind, name in COMPONENTS.items():
        plugin_file.new(kind, name, package)
    (package / "dotted.py").write_text(FORMAT)
    names = [*COMPONENTS.values(), "dotted"]
    lines = "\n".join(f'{name} = "vitkit_dotted.{name}"' for name in names)
    (root / "pyproject.toml").write_text(PYPROJECT.format(entry_points=lines))
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs pip and setuptools to install a package")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    run("-m", "pip", "install", *options, "--target", str(site), str(root), site=site)
    return site


def test_every_component_of_a_package_is_in_its_list(site: Path) -> None:
    found = set(run("-c", LISTS, site=site).stdout.split())
    expected = {
        "dotted_model",
        "dotted-model/16",
        "dotted_loss",
        "dotted_data",
        "dotted_metric",
        "dotted_map",
        "dotted",
    }
    assert expected | {"dotted_recipe.small", "dotted_recipe.wide"} <= found
    assert {"vit-b/16", "supervised", "digits", "top1", "rollout", "digits.tiny", "huggingface"} <= found


def test_a_package_passes_the_checks(site: Path) -> None:
    done = run("-m", "vitkit", "check", "vitkit-dotted", site=site)
    for kind, name in COMPONENTS.items():
        assert f"{kind} {name}" in done.stdout
    assert "format dotted" in done.stdout
    assert "failed" not in done.stdout
    assert "skipped a saved" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("vitkit-dotted: ")


def write_package(site: Path, name: str, code: str) -> None:
    """Writes an installed package by hand: a module, and its metadata with an entry point."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[vitkit.plugins]\n{name} = {name}\n")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_thing\n", "the plug-in 'faulty' of the package faulty 1.2 was left out: cannot load the plug-in "
         "faulty 1.2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def evaluate(): ...\n", ""),
        ("PRESETS = {}\n", "left out: 'faulty' of faulty 1.2 is not a model family, because it has no Config"),
        ("def evaluate(subject): ...\ndef build(config): ...\n", ""),
        ("RECIPES = 5\n", "left out: 'faulty' of faulty 1.2 is not a recipe file: RECIPES contains 5; expected a list"),
        ("FORMAT = 5\n", ""),
    ],
)  # fmt: skip
def test_a_faulty_package_breaks_no_command(code: str, message: str, tmp_path: Path) -> None:
    write_package(tmp_path, "faulty", code)
    for words, shown in ((["models", "vit-b/16"], "vit-b/16"), (["recipes", "digits"], "digits.tiny")):
        done = run("-m", "vitkit", *words, site=tmp_path)
        assert shown in done.stdout
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) <= 1, done.stderr
        if ("PRESETS" in code) == (words[0] == "models") and message:
            assert message in done.stderr
    help_text = run("-m", "vitkit", "--help", site=tmp_path)
    assert help_text.stderr == ""


def test_a_model_that_cannot_be_built_is_left_out_of_the_list(tmp_path: Path, start: Callable[[str, str], str]) -> None:
    code = Path(start("model", "first_try")).read_text()
    (tmp_path / "site").mkdir()
    write_package(tmp_path / "site", "first_try", code.replace("self.head = ", "self.head = self.heads = missing or "))
    done = run("-m", "vitkit", "models", site=tmp_path / "site")
    assert "vit-b/16" in done.stdout
    lines = done.stderr.splitlines()
    assert [
        line for line in lines if "'first-try/16' cannot be built: NameError: name 'missing' is not defined" in line
    ]
    assert len(lines) == 2, "one line per preset"


def test_a_model_of_a_package_says_that_the_package_is_missing(site: Path, tmp_path: Path) -> None:
    code = (
        "from vitkit import checkpoints, models; from vitkit.data.processor import Processor; import sys\n"
        "model = models.build(models.family('dotted_model').TINY)\n"
        "processor = Processor.squash(32)\n"
        "checkpoint = checkpoints.Checkpoint(model=model, processor=processor, labels=tuple('abcde'))\n"
        "checkpoints.save(checkpoint, sys.argv[1])"
    )
    run("-c", code, str(tmp_path / "model"), site=site)
    done = run("-m", "vitkit", "inspect", str(tmp_path / "model"), site=tmp_path, check=False)
    assert done.returncode == 1
    assert "belongs to the plug-in vitkit-dotted 0.3, which is not installed; install it" in done.stderr
