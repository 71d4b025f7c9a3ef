"""Tables and figures of the ViT paper: the list, command lines, FLOPs of Table 6, and studies with two steps."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from slow_cases import slow_except

from vitkit import cli, models, paper
from vitkit.config import override
from vitkit.data import splits
from vitkit.data.sources import vtab
from vitkit.explanation import Curve, Curves, _plots
from vitkit.models import bit, presets, vit
from vitkit.paper import figure12, table3, table4, table6, table8, write
from vitkit.paper.small_scale import SmallScale
from vitkit.recipes import recipe, recipes

NAMES = list(paper.experiments())
COMPUTED = ("figure1", "table1", "table3", "table4")
# The other studies use the same helpers and are slow tests.
LIGHT = ("objectnet",)
TABLE6 = {f"{row.preset}-{row.epochs}": row for row in table6.ROWS}


def settings_of(command: str) -> dict[str, Any]:
    """Returns the arguments of a command line by name. Raises ValueError if they do not parse."""
    program, name, *arguments = shlex.split(command)
    assert program == "vitkit"
    return cli.parse(name, arguments)


def test_all_tables_and_figures_exist() -> None:
    expected = [f"figure{number}" for number in range(1, 15)] + [f"table{number}" for number in range(1, 10)]
    assert [*expected, "objectnet", "selfsupervision"] == NAMES
    for name, each in paper.experiments().items():
        assert each.title
        assert each.shows.endswith(".") or ":" in each.shows
        assert each.full
        assert each.published.rows
        assert each.minutes < 10, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (index % 3 > 0)) for index, name in enumerate(NAMES)]
)
def test_every_command_parses_and_its_settings_apply_to_the_recipe(name: str) -> None:
    for line in paper.experiment(name).full:
        verb, settings = line.split()[1], settings_of(line)
        options = settings.get("training")
        values = options.set if options else settings.get("set", ())
        changes = dict(each.split("=", 1) for each in values)
        if verb == "train":
            chosen = settings.get("recipe")
            run = override(recipe(chosen), {"data.source": options.data, **changes})
            assert run.data.source == options.data
        elif verb == "finetune":
            base = override(recipe("transfer.imagenet"), changes)
            patch = 14 if "h14" in line else 32 if "32" in line.split()[2] else 16
            assert options.image_size % patch == 0
            assert base.batch_size == options.batch_size
        elif verb == "recipes":
            assert (settings.get("name")) in recipes()
        else:
            assert verb in ("evaluate", "explain", "inspect", "models", "paper")


@pytest.mark.parametrize("row", slow_except(TABLE6, "vit-b/32-7", "bit-r50x1-7"))
def test_exaflops_of_table_6_are_within_five_percent(row: table6.Row) -> None:
    assert row.preset in presets()
    assert table6.exaflops(row.preset, row.epochs) == pytest.approx(row.exaflops, rel=table6.TOLERANCE)


def test_rows_above_the_tolerance_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (table6.Row("vit-b/32", "vit.b32_jft", 7, (0.0,) * 6, 100), table6.ROWS[1])
    monkeypatch.setattr(table6, "ROWS", rows)
    assert table6.study(SmallScale(out=tmp_path)).remarks[0] == "Differences above 5%: vit-b/32, 7 epochs."


def test_recipes_have_the_published_settings(tmp_path: Path) -> None:
    for study in (table3.study, table4.study):
        assert "differ: none." in study(SmallScale(out=tmp_path)).remarks[0]


def test_recipes_that_differ_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ("ViT-B/{16,32}", "JFT-300M", 7, 8e-4, "cosine", 0.2, 0.0)
    monkeypatch.setattr(table3, "ROWS", {"vit.b16_jft": row})
    findings = table3.study(SmallScale(out=tmp_path))
    assert findings.remarks[0] == "Recipes that differ: vit.b16_jft: schedule, weight decay."


def test_the_variants_of_table_8_are_different_models(tmp_path: Path) -> None:
    small = SmallScale(out=tmp_path)
    configs = [small.vit(**table8.options(name)) for name in (*table8.PUBLISHED, "sine-cosine")]
    assert len(set(configs)) == 9


def run_study(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a study with one seed and two steps on 600 digits and returns its result.json."""
    monkeypatch.setattr("vitkit.data.sources.digits.Digits.__len__", lambda self: 600)
    small = SmallScale(out=out, seeds=1, steps=2, device="cpu")
    findings = paper.study(name, small)
    paths = write.write(name, paper.experiment(name), findings, small, 1.0)
    assert all(path.stat().st_size for path in paths)
    text = (out / "result.md").read_text()
    assert paper.experiment(name).title in text
    assert "As published" in text
    return json.loads((out / "result.json").read_text())


@pytest.mark.parametrize(
    "name", [name if name in (*LIGHT, *COMPUTED) else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_study_with_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run_study(name, tmp_path / "out", monkeypatch)
    assert record["found"]["rows"]
    assert record["numbers"]
    assert all(len(row) == len(record["found"]["columns"]) for row in record["found"]["rows"])
    if name in ("table8", "figure3"):
        # Differences cannot be tested with one seed.
        assert any("differences are not tested with one seed" in remark for remark in record["remarks"])


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitkit.data.sources.digits.Digits.__len__", lambda self: 600)
    messages: list[str] = []
    small = SmallScale(out=tmp_path, seeds=1, steps=2, device="cpu", log=messages.append)
    first = small.train(small.run("one", small.vit(), data=small.upstream, seed=0, steps=2))
    stamp = (first.folder / "best" / "model.safetensors").stat().st_mtime_ns
    again = small.train(small.run("one", small.vit(), data=small.upstream, seed=0, steps=2))
    assert (first.folder / "best" / "model.safetensors").stat().st_mtime_ns == stamp
    assert again.score == first.score
    assert len(messages) == 2


def test_pretraining_and_transfer_share_no_class(tmp_path: Path) -> None:
    small = SmallScale(out=tmp_path)
    up, down = (next(iter(splits(source).values())).classes for source in (small.upstream, small.downstream))
    assert not set(up) & set(down)
    assert {*up, *down} == set("0123456789")


@pytest.mark.parametrize(("seeds", "steps"), [(0, None), (3, 0)])
def test_zero_seeds_or_steps_raise(seeds: int, steps: int | None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        SmallScale(out=tmp_path, seeds=seeds, steps=steps)


def test_too_few_classes_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 3 classes; a study needs at least 4"):
        _ = SmallScale(out=tmp_path, data="part:classes=0-2@digits").classes


def test_curves_are_plotted(tmp_path: Path) -> None:
    lines = (Curve("a", (1.0, 10.0), (2.0, 3.0), (0.1, 0.2)), Curve("b", (1.0, 10.0), (3.0, 2.0), (float("nan"),) * 2))
    for name, drawing in {
        "plain": Curves("Title", "x", "y", lines, log_x=True),
        "named": Curves("Title", "", "y", lines[:1], ("first", "second")),
    }.items():
        _plots.save(_plots.draw(drawing), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_memory_of_a_step_grows_linearly_with_the_images() -> None:
    model = models.build(vit.TINY, device="meta")
    two, four, six = (figure12.saved_bytes(model, 32, images) for images in (2, 4, 6))
    assert six - four == four - two > 0
    # At least the inputs of the linear layers: the outputs of the norms and of attention, and the hidden layer.
    tokens, width = 17, vit.TINY.width
    assert (four - two) // 2 > vit.TINY.depth * tokens * (3 * width + vit.TINY.mlp_width) * 4
    # The standardized filters of a ResNet are saved once per step.
    model = models.build(bit.TINY, device="meta")
    each, fits = figure12.memory(bit.TINY, 40)
    filters = sum(p.numel() for p in model.parameters() if p.ndim == 4) * 4
    once = figure12.saved_bytes(model, 40, 2) - 2 * each
    assert once >= filters
    weights = sum(p.numel() for p in model.parameters()) * 4 * 4
    assert fits == (figure12.MEMORY - weights - once) // each


def test_vtab_commands_train_every_task() -> None:
    lines = paper.experiment("table9").full
    assert len(lines) == 19
    for line, (task, about) in zip(lines, vtab.TASKS.items(), strict=True):
        assert line == f"vitkit train vtab.{task} --data vtab:{task}"
        assert recipe(f"vtab.{task}").model.num_classes == about.classes
