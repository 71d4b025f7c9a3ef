"""`vitkit new`, `vitkit check` and the option --plugin."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from vitkit import checkpoints, models, plugins, recipes
from vitkit.cli import main
from vitkit.config import override
from vitkit.data.processor import Processor
from vitkit.discovery import PluginError
from vitkit.models import vit
from vitkit.plugins import new as plugin_file
from vitkit.plugins.contracts import Report, Result, objective, run_checks
from vitkit.training import train

Start = Callable[[str, str], str]


@pytest.mark.parametrize("kind", plugin_file.KINDS)
def test_a_new_file_passes_the_checks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", kind, "first_try"]) == 0
    text = (tmp_path / "first_try.py").read_text()
    assert f"my_{kind}" not in text
    assert f"My{kind.title()}" not in text
    assert "first_try" in text
    capsys.readouterr()
    assert main(["check", "./first_try.py"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{kind} first_try")
    assert not [line for line in lines if "failed" in line]
    number, _, total = lines[-1].removeprefix("./first_try.py: ").removesuffix(" checks passed").partition(" of ")
    assert int(number) == int(total) >= 3
    assert main(["new", kind, "first_try"]) == 1
    assert "first_try.py exists; choose another name" in capsys.readouterr().err
    assert (tmp_path / "first_try.py").read_text() == text


def test_a_new_model_trains_and_a_new_recipe_runs(start: Start, tmp_path: Path) -> None:
    family = Path(start("model", "first_try")).stem
    plugins.load(tmp_path / "first_try.py")
    objective.two_steps_change_the_loss(objective.Subject("supervised", family=family))
    recipe = recipes.recipe(f"{start('recipe', 'quick')}:small")
    result = train(override(recipe, {"steps": 2, "evaluate_every": 2, "schedule.warmup": 1}), tmp_path / "run")
    assert (result.folder / "report.html").exists()
    assert result.step == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model", "First"], "the name is 'First'; expected lower-case letters, digits and '_', such as my_model"),
        (["model", "../x"], "the name is '../x'"),
        (["model", "class"], "the name is 'class'"),
        (["model", "vit"], "vitkit has a built-in model named 'vit'; choose another name, such as my_vit"),
        (["source", "folder"], "vitkit has a built-in source named 'folder'"),
    ],
)
def test_a_name_that_cannot_be_used_is_an_error(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", *words]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_kind_without_a_file_to_start_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="no file to start a 'format' from; choose from model, objective"):
        plugin_file.new("format", "mine", tmp_path)


BROKEN = {
    "gradients reach every parameter": ("self.mean(normed.mean", "0 * self.mean(normed.mean", "no gradient reaches "
                                        "'patch_embed.proj.weight'|is zero|no gradient reaches 'blocks.0.mean.weight'"),
    "init weights fills everything": ("nn.Linear | nn.LayerNorm | nn.Conv2d", "nn.Linear | nn.Conv2d",
                                      "init_weights does not initialize 'blocks.0.norm.weight'"),
    "shapes": ("grid = (patches.shape[2], patches.shape[3])", "grid = (patches.shape[3] + 1, patches.shape[2])",
               "the tokens have the shape"),
    "head": ("features.patches.mean(dim=1)", "features.patches.mean(dim=1) + 1 / features.patches.shape[0]",
             "if other images are in the batch"),
    "code": ("normed = self.norm(tokens)", "normed = self.nrom(tokens)",
             r"AttributeError: 'Mixer' object has no attribute 'nrom' \(first_try.py, line \d+\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_fails_with_a_line_that_says_why(
    name: str, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    old, new, message = BROKEN[name]
    file = Path(start("model", "first_try"))
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    assert main(["check", str(file)]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  failed")]
    assert any(re.search(message, line) for line in failed), failed


def test_checks_of_a_component_as_json(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", start("evaluator", "sureness"), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(row["kind"], row["name"], row["status"]) for row in rows} == {("evaluator", "sureness", "ok")}


def test_a_source_is_checked_with_its_options(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = start("source", "shapes")
    assert main(["check", f"{shapes}?number=5"]) == 0
    assert "source shapes:number=5\n" in capsys.readouterr().out
    assert main(["check", f"{shapes}?numbr=5"]) == 1
    assert "unknown option 'numbr=5' of the data source shapes; did you mean 'number'?" in capsys.readouterr().out


def test_a_file_without_components_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nothing.py"
    file.write_text("from vitkit.evaluation import evaluate\nclass Config: ...\ndef helper(x): ...\n")
    assert main(["check", str(file)]) == 1
    assert "has no component; use a decorator of vitkit.plugins, or write the attributes" in capsys.readouterr().err
    assert main(["check", f"{file}:helper"]) == 1
    assert "'helper' of" in (error := capsys.readouterr().err)
    assert "give its kind: model, objective" in error
    assert main(["check", str(tmp_path / "missing.py")]) == 1
    assert "missing.py' does not exist" in capsys.readouterr().err


def test_annotations_show_the_kind_of_functions_without_decorators(tmp_path: Path) -> None:
    file = tmp_path / "typed.py"
    file.write_text(
        "import torch.nn.functional as F\n"
        "from vitkit.data.loader import Batch\nfrom vitkit.evaluation import ModelOutputs\n"
        "from vitkit.models import Backbone\nfrom vitkit.recipes.digits import tiny\nfrom vitkit.training import Run\n"
        "def loss(backbone: Backbone, batch: Batch):\n"
        "    return F.cross_entropy(backbone(batch.images), batch.targets)\n"
        "def metric(subject: ModelOutputs) -> float:\n    return 0.5\n"
        "def short() -> Run:\n    return tiny()\n"
        "def helper(x: int) -> int:\n    return x\n"
    )
    report = plugins.check(str(file))
    assert {(each.kind, each.name) for each in report.results} == {
        ("objective", "loss"), ("evaluator", "metric"), ("recipe", "typed.short"),
    }  # fmt: skip
    assert report, str(report)


def test_the_option_plugin_belongs_to_every_command(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], forget: Callable[[], None]
) -> None:
    model, recipe = start("model", "first_try"), start("recipe", "quick")
    for words in (["models", "first", "--plugin", model], ["models", "--plugin=" + model, "first"],
                  ["--plugin", model, "models", "first"]):  # fmt: skip
        assert main(words) == 0
        assert capsys.readouterr().out.count("first-try/") == 2
        forget()
    assert main(["recipes", "quick.wide", "--plugin", recipe]) == 0
    assert "vitkit train quick.wide --data digits" in capsys.readouterr().out
    assert main(["inspect", "first-try/16", "--plugin", model]) == 0
    assert "first_try" in capsys.readouterr().out
    (tmp_path / "nothing.py").write_text("def loss(backbone, batch): ...\n")
    assert main(["models", "vit-mu", "--plugin", str(tmp_path / "nothing.py")]) == 0
    assert "nothing.py registers no component; see docs/plugins.md" in capsys.readouterr().err
    assert main(["models", "--plugin"]) == 1
    assert "--plugin needs a value: a Python file such as ./mine.py" in capsys.readouterr().err
    assert main(["--plugin", model]) == 1
    assert "--plugin needs a command" in capsys.readouterr().err
    assert main(["models", "--plugin", "./missing.py"]) == 1
    assert "the plug-in './missing.py' does not exist" in capsys.readouterr().err


def test_components_of_files_are_options_of_train(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    forget: Callable[[], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    start("model", "first_try")
    start("objective", "focal")
    start("source", "shapes")
    words = ["train", "--model", "./first_try.py:first-try/32", "--objective", "./focal.py"]
    words += ["--data", "./shapes.py?number=12,size=32", "--steps", "1", "--out", "run"]
    small = ["model.width=8", "model.depth=1", "objective.gamma=1", "schedule.warmup=0"]
    assert main([*words, "--set", *small, "--image-size", "32"]) == 0, capsys.readouterr().err
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["model"]["family"] == "first_try"
    assert saved["objective"] == {"objective": "focal", "gamma": 1.0}
    forget()
    assert main(["train", "--resume", "run", "--steps", "2"]) == 0, capsys.readouterr().err
    assert main(["train", "digits.tiny", "--objective", "./focl.py"]) == 1
    assert "the plug-in './focl.py' does not exist" in capsys.readouterr().err


def test_a_recipe_of_a_file_is_trained_by_the_command(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start("recipe", "quick")
    sureness = start("evaluator", "sureness")
    settings = ["steps=2", "schedule.warmup=1", f'evaluators=["top1","{sureness}"]']
    assert main(["train", "./quick.py:small", "--set", *settings]) == 0
    assert "runs/quick.small/best: top1.accuracy" in capsys.readouterr().out
    assert main(["train", "./quick.py:smal"]) == 1
    assert "has no recipe 'smal'; did you mean 'small'?" in capsys.readouterr().err
    best = "runs/quick.small/best"
    shapes = start("source", "shapes")
    assert main(["evaluate", best, "--data", "digits", "--held-out", "0.02", "--with", f"{sureness}", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"sureness.confidence", "sureness.overconfidence"}
    assert main(["evaluate", best, "--data", f"{shapes}?number=9", "--with", "rank", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 9


def test_an_explanation_of_a_file_is_drawn_by_the_command(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.build(vit.TINY)
    labels = tuple(map(str, range(vit.TINY.num_classes)))
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels)
    checkpoints.save(checkpoint, tmp_path / "model")
    Image.new("RGB", (40, 40), (20, 90, 200)).save(tmp_path / "a.png")
    words = ["explain", str(tmp_path / "model"), str(tmp_path / "a.png"), "--out", str(tmp_path / "out.png")]
    assert main([*words, "--method", start("explanation", "norms")]) == 0
    assert "Norm of the patch tokens" in capsys.readouterr().out
    assert main([*words, "--method", "rolout"]) == 1
    assert "unknown explanation 'rolout'; did you mean 'rollout'?" in capsys.readouterr().err


def test_a_checkpoint_is_converted_to_the_format_of_a_file(
    write: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        "noted.py",
        "import dataclasses\nfrom vitkit.checkpoints.formats.vitkit import FORMAT as VITKIT\n"
        "FORMAT = dataclasses.replace(VITKIT, name='noted', targets=('noted',))\n",
    )
    model = models.build(vit.TINY)
    labels = tuple(map(str, range(vit.TINY.num_classes)))
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels)
    checkpoints.save(checkpoint, tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "notd"]) == 1
    assert "unknown format 'notd'" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to", file]) == 0
    assert (tmp_path / "out" / "config.json").exists()
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "two"), "--to", "noted", "--plugin", file]) == 0


def test_help_loads_no_plugin_and_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "loud.py"
    file.write_text("print('loaded')\n")
    script = (
        "import sys; from vitkit import cli\n"
        f"plugin = ['--plugin', {str(file)!r}]\n"
        "for words in (['--help'], ['check', '--help'], ['new', '--help'], ['models', *plugin, '-h']):\n"
        "    try: cli.main(words)\n"
        "    except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "loaded" not in done.stdout


def test_a_report_counts_the_checks_that_apply() -> None:
    def good(_: object) -> None: ...

    def wrong(_: object) -> None:
        raise PluginError("wrong, because")

    results = (*run_checks("model", "a", (good, wrong, good), "a"), Result("model", "b", "x", "skipped", "why"))
    report = Report("mine.py", results)
    assert [each.status for each in results] == ["ok", "failed", "ok", "skipped"]
    assert not report
    assert str(report).splitlines() == [
        "model a", "  ok      good", "  failed  wrong: wrong, because", "  ok      good", "model b",
        "  skipped x: why", "mine.py: 2 of 3 checks passed",
    ]  # fmt: skip
    state = torch.random.get_rng_state()
    list(run_checks("model", "a", (lambda _: torch.randn(3),), "a"))
    assert torch.equal(torch.random.get_rng_state(), state), "checks do not change the random state"
