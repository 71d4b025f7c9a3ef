"""Installed packages with the entry points `vitkit.plugins`: lists, checks, and packages that fail."""

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vitkit import checkpoints, data, evaluation, explanation, models, objectives, recipes
from vitkit.cli import main
from vitkit.data.labels import default_labels
from vitkit.data.processor import Processor
from vitkit.plugins import PluginWarning
from vitkit.plugins import new as plugin_file

Start = Callable[[str, str], str]

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


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Adds a folder of installed packages to `sys.path`, and removes the modules that were imported from it."""
    folders: list[Path] = []

    def add(folder: Path) -> None:
        monkeypatch.syspath_prepend(str(folder))
        folders.append(folder)

    yield add
    for name, module in list(sys.modules.items()):
        if any(Path(getattr(module, "__file__", None) or "/").is_relative_to(folder) for folder in folders):
            del sys.modules[name]


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
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


def test_every_component_of_a_package_is_in_its_list(site: Path, install: Callable[[Path], None]) -> None:
    install(site)
    assert {"dotted_model", "vit"} <= set(models.families())
    assert {"dotted-model/16", "vit-b/16"} <= set(models.presets())
    assert {"dotted_loss", "supervised"} <= set(objectives.objectives())
    assert {"dotted_data", "digits"} <= set(data.source_names())
    assert {"dotted_metric", "top1"} <= set(evaluation.evaluators())
    assert {"dotted_map", "rollout"} <= set(explanation.methods())
    assert {"dotted_recipe.small", "dotted_recipe.wide", "digits.tiny"} <= set(recipes.recipes())
    assert {"dotted", "huggingface"} <= set(checkpoints.list_formats())


def test_a_package_passes_the_checks(
    site: Path, install: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(site)
    assert main(["check", "vitkit-dotted"]) == 0
    shown = capsys.readouterr().out
    for kind, name in COMPONENTS.items():
        assert f"{kind} {name}" in shown
    assert "format dotted\n  ok      the format is complete\n  ok      tables" in shown
    assert "failed" not in shown
    assert shown.splitlines()[-1].startswith("vitkit-dotted: ")


def test_a_checkpoint_in_the_format_of_a_package_is_recognized(
    site: Path, install: Callable[[Path], None], tmp_path: Path, forget: Callable[[], None]
) -> None:
    install(site)
    checkpoints.save(small_checkpoint("vit"), tmp_path / "model", to="dotted")
    assert checkpoints.load(tmp_path / "model").origin.format == "dotted"
    forget()
    sys.path.remove(str(site))
    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.load(tmp_path / "model")


def small_checkpoint(family: str) -> checkpoints.Checkpoint:
    """A checkpoint of the small model of a family."""
    config = models.family(family).TINY
    labels = default_labels(config.num_classes)
    return checkpoints.Checkpoint(model=models.build(config), processor=Processor.squash(32), labels=labels)


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
        ("import no_such_thing\n", "the plug-in 'faulty' of the package faulty 1.2 was left out: cannot load the "
         "plug-in faulty 1.2: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def evaluate(): ...\n", ""),
        ("PRESETS = {}\n", "left out: 'faulty' of faulty 1.2 is not a model family, because it has no Config"),
        ("def evaluate(subject): ...\ndef build(config): ...\n", ""),
        ("RECIPES = 5\n", "left out: 'faulty' of faulty 1.2 is not a recipe file: RECIPES contains 5; expected a list"),
        ("FORMAT = 5\n", ""),
    ],
)  # fmt: skip
def test_a_faulty_package_breaks_no_command(
    code: str, message: str, tmp_path: Path, install: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(tmp_path, "faulty", code)
    install(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["models", "vit-b/16"]) == 0
        assert "vit-b/16" in capsys.readouterr().out
        assert main(["recipes", "digits"]) == 0
        assert "digits.tiny" in capsys.readouterr().out
    lines = [str(each.message) for each in caught]
    assert len(lines) == (1 if message else 0), lines
    assert all(message in line and "\n" not in line for line in lines)


def test_a_model_that_cannot_be_built_is_left_out_of_the_list(
    tmp_path: Path, start: Start, install: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    code = Path(start("model", "first_try")).read_text()
    (tmp_path / "site").mkdir()
    code = code.replace("self.head = ", "self.head = self.heads = missing or ").replace('"first-try/', '"vit-mu/first-')
    write_package(tmp_path / "site", "first_try", code)
    install(tmp_path / "site")
    assert main(["models", "vit-mu/"]) == 0
    shown = capsys.readouterr()
    assert "vit-mu/16" in shown.out
    assert "vit-mu/first" not in shown.out
    lines = shown.err.splitlines()
    assert len(lines) == 2, "one line per preset"
    assert "'vit-mu/first-16' cannot be built: NameError: name 'missing' is not defined" in lines[0]


def test_a_checkpoint_of_a_package_says_that_the_package_is_missing(
    site: Path, install: Callable[[Path], None], tmp_path: Path, forget: Callable[[], None]
) -> None:
    install(site)
    checkpoints.save(small_checkpoint("dotted_model"), tmp_path / "model")
    forget()
    sys.path.remove(str(site))
    with pytest.raises(
        ValueError, match=r"belongs to the plug-in vitkit-dotted 0\.3, which is not installed; install it"
    ):
        checkpoints.load(tmp_path / "model")


def test_an_entry_point_that_is_no_module_is_named(tmp_path: Path, install: Callable[[Path], None]) -> None:
    write_package(tmp_path, "faulty", "def f(): ...\n")
    file = tmp_path / "faulty-1.2.dist-info" / "entry_points.txt"
    file.write_text("[vitkit.plugins]\nfaulty = faulty:f\n")
    install(tmp_path)
    with pytest.warns(PluginWarning, match="the entry point 'faulty' is 'faulty:f'; expected the name of a module"):
        objectives.objectives()
