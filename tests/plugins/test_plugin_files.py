"""Components in files: decorators, attributes, references such as `./mine.py:loss`, and errors."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from vitkit import data, discovery, evaluation, explanation, models, objectives, plugins, recipes
from vitkit.checkpoints import list_formats
from vitkit.data.augment import Transform
from vitkit.data.loader import Stream, training_batches
from vitkit.data.processor import Processor
from vitkit.plugins import PluginError, PluginWarning
from vitkit.plugins.contracts import evaluator as evaluator_contract
from vitkit.plugins.contracts import objective as objective_contract
from vitkit.references import parse, resolve

Write = Callable[[str, str], str]
MINE = '''
"""Short forms of several kinds."""

import dataclasses

import torch.nn.functional as F

from vitkit.checkpoints.formats.vitkit import FORMAT as OURS
from vitkit.data.sources.digits import Digits
from vitkit.evaluation import evaluate  # imported, so it is not an evaluator of this file
from vitkit.models import vit
from vitkit.plugins import (
    register_evaluator, register_explanation, register_format, register_model, register_objective, register_recipe,
    register_source,
)
from vitkit.recipes import recipe as built_in


@register_model(config=vit.Config, tiny=vit.TINY, presets={"stripes/4": vit.TINY})
class StripeModel(vit.ViT):
    pass


@register_objective
def cool_loss(backbone, batch, *, temperature: float = 2.0, scale: float = 1.0):
    return scale * F.cross_entropy(backbone(batch.images) / temperature, batch.targets)


@register_source(name="few-digits")
class FewDigits(Digits):
    def __init__(self, number: int = 10):
        super().__init__()
        self.number = number

    def __len__(self):
        return self.number


@register_evaluator(fractions=False)
def largest(subject):
    return subject.predictions.logits.max()


@register_explanation
def means(subject, *, factor: float = 1.0):
    return factor * subject.pixels.mean()


@register_recipe
def quick():
    """Digits in two steps."""
    return dataclasses.replace(built_in("digits.tiny"), steps=2)


register_format(dataclasses.replace(OURS, name="mine", targets=("mine",), accepts=lambda config: False))


def plain_loss(backbone, batch):
    return {"loss": F.cross_entropy(backbone(batch.images), batch.targets), "extra": batch.targets.mean()}


def plain_source(number: int):
    return {"train": FewDigits(number), "val": FewDigits(5)}


def plain_metric(subject, argument):
    return {"length": len(argument)}


def plain_recipe():
    return dataclasses.replace(built_in("digits.tiny"), steps=3)
'''


@pytest.fixture
def mine(write: Write) -> str:
    return write("mine.py", MINE)


def test_every_kind_of_component_is_in_its_list(mine: str) -> None:
    found = plugins.load(mine)
    assert {(each.kind, each.name) for each in found} == {
        ("model", "stripe_model"), ("objective", "cool_loss"), ("source", "few-digits"), ("evaluator", "largest"),
        ("explanation", "means"), ("recipe", "mine.quick"), ("format", "mine"),
    }  # fmt: skip
    assert "stripe_model" in models.families()
    assert "stripes/4" in models.presets()
    assert "cool_loss" in objectives.objectives()
    assert "few-digits" in data.source_names()
    assert "largest" in evaluation.evaluators()
    assert "means" in explanation.methods()
    assert "mine.quick" in recipes.recipes()
    assert "mine" in list_formats()
    assert plugins.load(Path(mine)) == found, "a second call loads nothing again"


def test_errors_suggest_names_of_plugins(mine: str) -> None:
    plugins.load(mine)
    with pytest.raises(ValueError, match="unknown objective 'cool_los'; did you mean 'cool_loss'"):
        objectives.objective("cool_los")
    with pytest.raises(ValueError, match="unknown model 'stripes/8'; did you mean 'stripes/4'"):
        models.preset("stripes/8")
    with pytest.raises(ValueError, match=r"unknown recipe 'mine.quik'; did you mean 'mine.quick'"):
        recipes.recipe("mine.quik")
    with pytest.raises(ValueError, match=r"unknown data source 'few-digit' in .*; did you mean 'few-digits'"):
        data.splits("few-digit:number=2")


def test_a_preset_of_a_file(mine: str, start: Write) -> None:
    assert models.preset(mine, image_size=64).image_size == (64, 64)
    assert models.preset(f"{mine}:stripes/4").width == models.preset("stripes/4").width
    two = start("model", "two_sizes")
    assert models.preset(f"{two}:two-sizes/32").patch_size == (32, 32)
    with pytest.raises(PluginError, match=r"has several models; write .*two_sizes.py:two-sizes/16, for example"):
        models.preset(two)
    with pytest.raises(PluginError, match=r"has no model 'two-sizes/8'; did you mean 'two-sizes/32' or"):
        models.preset(f"{two}:two-sizes/8")
    with pytest.raises(PluginError, match="has no model family"):
        models.preset(start("objective", "focal"))


def test_an_objective_is_a_function_with_options(mine: str) -> None:
    config = objectives.objective(f"{mine}:cool_loss").Config(temperature=4.0)
    saved = objectives.to_dict(config)
    assert saved == {"objective": "cool_loss", "temperature": 4.0, "scale": 1.0}
    assert objectives.from_dict(saved) == config
    with pytest.raises(ValueError, match=r"'objective\.scale' is 'big'; expected a number"):
        objectives.from_dict({**saved, "scale": "big"})
    model = models.build(models.family("vit").TINY).eval()
    batch = objective_contract.batch_for(model)
    loss = objectives.build(config, model)(batch)["loss"]
    expected = torch.nn.functional.cross_entropy(model(batch.images) / 4.0, batch.targets)
    torch.testing.assert_close(loss, expected)
    plain = objectives.build(objectives.objective(f"{mine}:plain_loss").Config(), model)(batch)
    assert set(plain) == {"loss", "extra"}


def test_an_objective_that_returns_no_scalar_is_an_error(write: Write) -> None:
    file = write("wrong.py", "def loss(backbone, batch):\n    return backbone(batch.images)\n")
    model = models.build(models.family("vit").TINY)
    built = objectives.build(objectives.objective(f"{file}:loss").Config(), model)
    with pytest.raises(PluginError, match=r"'loss' returned a tensor of shape \(4, \d+\); expected a scalar tensor"):
        built(objective_contract.batch_for(model))


def test_a_data_source_has_options(mine: str) -> None:
    assert {name: len(each) for name, each in data.splits(f"{mine}:FewDigits?number=3").items()} == {"all": 3}
    assert len(data.splits("few-digits")["all"]) == 10
    assert len(data.splits("few-digits:number=4")["all"]) == len(data.splits("few-digits?number=4")["all"]) == 4
    assert {name: len(each) for name, each in data.splits(f"{mine}:plain_source?number=7").items()} == {
        "train": 7, "val": 5,
    }  # fmt: skip
    part = data.splits(f"part:number=1,classes=0-1@{mine}:FewDigits?number=30")["all"]
    assert part.classes == ("0", "1")
    for wrong, message in (
        ("few-digits:numbr=3", "few-digits: unknown option 'numbr'; did you mean 'number'"),
        ("few-digits:number=some", "'few-digits.number' is 'some'; expected an integer"),
        ("few-digits:3", "few-digits: '3' is not of the form NAME=VALUE; choose from number"),
        ("plain_source", "the key 'plain_source.number' is missing"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            data.splits(wrong)


def test_an_evaluator_may_return_one_number_and_take_an_argument(mine: str) -> None:
    subject = evaluator_contract.Subject("top1").outputs
    found = evaluation.evaluate(subject, [f"{mine}:largest", f"{mine}:plain_metric?abc"])
    assert found == {"largest.value": float(subject.predictions.logits.max()), "plain_metric:abc.length": 3.0}
    assert evaluation.formatted("largest.value", 2.5) == "2.5"
    with pytest.raises(ValueError, match="'plain_metric' needs an argument; write plain_metric:ARGUMENT"):
        evaluation.evaluate(subject, [f"{mine}:plain_metric"])


def test_a_recipe_is_a_function_or_an_entry(mine: str, start: Write) -> None:
    run = recipes.recipe(f"{mine}:plain_recipe")
    assert (run.name, run.steps) == ("mine.plain_recipe", 3)
    assert recipes.recipe(f"{mine}:quick").steps == recipes.recipe("mine.quick").steps == 2
    assert recipes.recipes()["mine.quick"].description.startswith("Digits in two steps.")
    two = start("recipe", "two")
    assert recipes.recipe(f"{two}:wide").model.width == 96
    with pytest.raises(PluginError, match=r"has the recipes two.small, two.wide; write .*two.py:NAME"):
        recipes.recipe(two)
    with pytest.raises(PluginError, match=r"two.py has no recipe 'wiide'; did you mean 'wide'"):
        recipes.recipe(f"{two}:wiide")


def test_references() -> None:
    assert parse("./mine.py:loss?a=1") == parse("./mine.py:loss:a=1")
    assert parse("vit-b/16") is parse("folder:images/") is parse("mine.python") is None
    # A location that ends in .py belongs to the data source before the colon.
    assert resolve("source", "list:names.py") == "list:names.py"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nprint(undefined)\n", r"broken\.py: NameError: name 'undefined' is not defined \(line 2\)"),
        ("def f(:\n", r"SyntaxError: .*broken\.py, line 1"),
        ("import no_such_package_at_all\n", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("raise SystemExit(3)\n", r"SystemExit: 3 \(line 1\)"),
        ("from vitkit.plugins import register\nregister('loss', 1, 'x')\n",
         "unknown kind of component 'loss'; choose from model, objective"),
        ("from vitkit.plugins import register\nregister('objective', 1, 'x.y')\n", "the name of a component is 'x.y'"),
        ("from vitkit.plugins import register_objective\n@register_objective\ndef mae(backbone, batch): ...\n",
         "registers the objective 'mae', which is the name of a built-in objective"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line_and_registers_nothing(code: str, message: str, write: Write) -> None:
    good = "from vitkit.plugins import register_evaluator\n@register_evaluator\ndef good(subject): ...\n"
    file = write("broken.py", code)
    with pytest.raises(PluginError, match=message) as caught:
        plugins.load(file)
    assert "\n" not in str(caught.value)
    # What the file registered before the error does not stay.
    late = write("late.py", good + "raise KeyError('late')\n")
    with pytest.raises(PluginError, match="KeyError: 'late'"):
        plugins.load(late)
    assert "good" not in evaluation.evaluators()
    write("late.py", good)
    assert [each.name for each in plugins.load(late)] == ["good"], "a mended file loads in the same process"


def test_two_plugins_with_one_name_are_an_error(start: Write, tmp_path: Path) -> None:
    plugins.load(start("objective", "focal"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "focal.py").write_text((tmp_path / "focal.py").read_text())
    with pytest.raises(PluginError, match=r"registers the objective 'focal', but .*focal.py has registered it already"):
        plugins.load(tmp_path / "other" / "focal.py")
    assert discovery.registered("objective")["focal"].origin.reference == str(tmp_path / "focal.py")


def test_registering_again_in_a_notebook_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in (1.0, 2.0):

        def loss(backbone: models.Backbone, batch: object, factor: float = factor) -> torch.Tensor:
            return factor * torch.ones(())

        loss.__module__ = "__main__"
        plugins.register_objective(loss)
    assert objectives.objective("loss").Config().factor == 2.0
    plugins.unregister("objective", "loss")
    assert "loss" not in objectives.objectives()


MODEL_PARTS = {
    "Config": ("Config = 5\n", r"Config is 5; expected a frozen dataclass with the fields image_size, channels"),
    "Model": ("", r"it has no Model \(a subclass of Backbone, or a function"),
    "PRESETS": ("presets = {}\n", r"has no PRESETS \(a dict .*\); it has 'presets', which must be called 'PRESETS'"),
    "TINY": ("TINY = 'small'\n", r"TINY is 'small'; expected a Config"),
}


@pytest.mark.parametrize("part", MODEL_PARTS)
def test_a_missing_or_wrong_part_of_a_model_is_named(part: str, start: Write) -> None:
    file = Path(start("model", "patch_mean"))
    replacement, message = MODEL_PARTS[part]
    file.write_text(re.sub(rf"^{part} = .*\n", "", file.read_text(), flags=re.MULTILINE) + replacement)
    plugins.load(file)
    with pytest.raises(PluginError, match=message):
        models.family("patch_mean")
    with pytest.warns(PluginWarning, match=message):
        assert "vit-b/16" in models.presets(), "the other models are listed"


@pytest.mark.parametrize("method", ["init_weights", "represent", "encode"])
def test_a_model_without_a_method_is_named_and_left_out_of_lists(method: str, start: Write) -> None:
    file = Path(start("model", "patch_mean"))
    file.write_text(file.read_text().replace(f"def {method}(", f"def other_{method}("))
    plugins.load(file)
    message = rf"'patch_mean' of .* is not a model family: PatchMean has no method {method}; define {method}\(self"
    with pytest.raises(PluginError, match=message):
        models.family("patch_mean")
    with pytest.warns(PluginWarning, match=message):
        assert "patch-mean/16" not in models.presets()
    report = plugins.check(str(file))
    assert not report
    assert re.search(message, str(report))


def test_a_field_that_is_missing_from_the_config_is_named(start: Write) -> None:
    file = Path(start("model", "patch_mean"))
    file.write_text(file.read_text().replace("    task: Task = SINGLE_LABEL\n", ""))
    with pytest.raises(PluginError, match="Config has no task; expected a frozen dataclass with the fields"):
        models.family(str(file))


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("def x(backbone): ...", "objective", r"takes \(backbone\); expected loss\(backbone, batch, \*, gamma"),
        ("def x(backbone, batch, gamma): ...", "objective", r"takes \(backbone, batch, gamma\); expected loss"),
        ("def x(backbone, batch, *, gamma=None): ...", "objective", "the option 'gamma' of 'x' .* has no type; write"),
        ("x = 5", "objective", r"is 5; expected a function loss\(backbone, batch"),
        ("def x(): ...", "evaluator", r"takes \(\); expected metric\(subject\), or metric\(subject, argument\)"),
        ("def x(subject): ...\nx.READS = 'logits'", "evaluator", "READS is 'logits'; expected one of predictions"),
        (
            "def x(subject): return 'high'",
            "evaluator",
            "'x' of .* returned str; expected a number, or a dict of numbers",
        ),
        ("def x(): return [1, 2]", "source", "'x' returned list; expected a Source, or a dict of Sources by split"),
        ("def x(): return 3", "recipe", "returned int; expected a vitkit.training.Run"),
        ("def x(steps): ...", "recipe", "cannot be called without arguments: missing a required argument: 'steps'"),
        ("x = 5", "recipe", "is 5; expected a function without parameters that returns a Run"),
        ("x = 5", "format", "is not a checkpoint format: it is 5; expected a Format"),
        ("def x(): ...", "explanation", r"expected a function explain\(subject"),
        ("def x(subject): return 4", "explanation", "returned int; expected an Explanation"),
        ("class x: ...", "model", "is not a model family; write Config, Model, PRESETS, TINY into a file"),
    ],
)
def test_the_expected_form_of_a_component_is_in_the_error(code: str, kind: str, message: str, write: Write) -> None:
    file = write("wrong.py", f"{code}\n")
    report = plugins.check(f"{file}:x", kind=kind)
    assert not report
    assert re.search(message, report.failures[0].message), report.failures[0].message


def test_installed_and_named_plugins_that_fail_are_warnings(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = write("good.py", MINE), write("bad.py", "1 / 0\n")
    monkeypatch.setenv(discovery.VARIABLE, f"{bad}:{good}")
    with pytest.warns(PluginWarning, match=r"bad\.py' in VITKIT_PLUGINS was left out: .*ZeroDivisionError.*\(line 1\)"):
        assert "cool_loss" in objectives.objectives()
    assert list(plugins.failed()) == [f"the plug-in '{bad}' in VITKIT_PLUGINS"]
    assert models.preset("vit-b/16").width == 768


def test_built_in_names_are_looked_up_without_loading_plugins(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(discovery.VARIABLE, write("slow.py", "raise RuntimeError('loaded')\n"))
    assert objectives.objective("mae").Config().mask_ratio == 0.75
    assert models.family("vit") is sys.modules["vitkit.models.vit"]
    assert evaluation.evaluator("top1") is sys.modules["vitkit.evaluation.top1"]
    assert not discovery._found


def test_other_modules_next_to_the_file_can_be_imported(write: Write) -> None:
    write("shared_numbers_of_mine.py", "FACTOR = 3.0\n")
    file = write(
        "uses.py", "from shared_numbers_of_mine import FACTOR\ndef loss(backbone, batch, *, f: float = FACTOR): ...\n"
    )
    assert objectives.objective(f"{file}:loss").Config().f == 3.0
    sys.modules.pop("shared_numbers_of_mine")


def test_a_worker_process_finds_the_classes_of_a_file(mine: str, tmp_path: Path) -> None:
    """As with the start methods spawn and forkserver: another interpreter unpickles the dataset of the loader."""
    source = data.splits(f"{mine}:FewDigits?number=6")["all"]
    batches = training_batches(source, Transform(Processor.squash(8)), Stream(batch_size=2, seed=0, workers=0))
    assert next(batches).images.shape == (2, 3, 8, 8)
    from vitkit.data.loader import SampleIndex, _Evaluation

    dataset = _Evaluation(source, Transform(Processor.squash(8)))
    (tmp_path / "dataset").write_bytes(bytes(ForkingPickler.dumps(dataset)))
    code = (
        "import sys; from multiprocessing.reduction import ForkingPickler; from vitkit.data.loader import SampleIndex\n"
        "dataset = ForkingPickler.loads(open(sys.argv[1], 'rb').read())\n"
        "print(type(dataset.source).__name__, float(dataset[SampleIndex(0, 3)].image.sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "dataset")], capture_output=True, text=True, check=True
    )
    name, total = done.stdout.split()
    assert name == "FewDigits"
    assert float(total) == float(dataset[SampleIndex(0, 3)].image.sum())  # type: ignore[union-attr]


def test_a_config_class_that_is_not_registered_is_an_error() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other:
        num_classes: int = 2

    with pytest.raises(ValueError, match=r"the config class Other .* belongs to no registered model family; register"):
        models.family_of(Other())
