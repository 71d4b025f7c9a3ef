"""Runs and checkpoints of plug-ins: what they save, and how they are resumed and loaded in another process."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vitkit
from vitkit import checkpoints, models, objectives, plugins
from vitkit.data import splits
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.plugins import PluginError
from vitkit.recipes import recipe
from vitkit.training import Data, Run, RunFolder, train
from vitkit.training import run as runs

Start = Callable[[str, str], str]
SMALL = {"image_size": (16, 16), "patch_size": (4, 4), "width": 8, "depth": 1, "num_classes": 2}


def small_run(start: Start, steps: int = 2) -> Run:
    """A run whose model, objective, data source and evaluator are from files."""
    model = models.family(start("model", "patch_mean")).Config(**SMALL)
    return dataclasses.replace(
        recipe("digits.tiny"),
        name="mine",
        model=model,
        objective=objectives.objective(start("objective", "focal")).Config(gamma=1.0),
        data=Data(source=f"{start('source', 'shapes')}?number=20,size=16"),
        evaluators=("top1", start("evaluator", "sureness")),
        schedule=dataclasses.replace(recipe("digits.tiny").schedule, warmup=0),
        batch_size=8,
        steps=steps,
        evaluate_every=2,
    )


def test_a_run_names_its_plugins_and_resumes(start: Start, tmp_path: Path, forget: Callable[[], None]) -> None:
    run = small_run(start)
    result = train(run, tmp_path / "run")
    assert run.evaluators == ("top1", "sureness")
    assert run.data.source == "shapes:number=20,size=16"
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [(each["kind"], each["name"], Path(each["plugin"]).name) for each in saved["plugins"]] == [
        ("model", "patch_mean", "patch_mean.py"), ("objective", "focal", "focal.py"),
        ("evaluator", "sureness", "sureness.py"), ("source", "shapes", "shapes.py"),
    ]  # fmt: skip
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "sureness.confidence" in log
    forget()
    assert "focal" not in objectives.objectives()
    again = RunFolder(tmp_path / "run").run()
    assert runs.differences(again, runs.from_json(json.dumps(saved))) == []
    longer = dataclasses.replace(again, steps=4)
    assert train(longer, tmp_path / "run").step >= result.step
    # A run without plug-ins has no such key.
    assert "plugins" not in runs.to_dict(recipe("digits.tiny"))


def test_a_checkpoint_says_which_plugin_it_needs(start: Start, tmp_path: Path, forget: Callable[[], None]) -> None:
    file = start("model", "patch_mean")
    torch.manual_seed(0)
    model = models.build(models.family(file).Config(**SMALL)).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = model(images)
    folder = tmp_path / "model"
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(16), labels=("a", "b"))
    assert checkpoints.save(checkpoint, folder) == "vitkit"
    assert str(tmp_path) not in (folder / "config.json").read_text(), "folders of the user are private"
    forget()
    for load in (vitkit.load, checkpoints.load):
        with pytest.raises(
            ValueError,
            match=r"family 'patch_mean' belongs to the plug-in file patch_mean.py; load it "
            r"first, with --plugin patch_mean.py or, in Python, vitkit.plugins.load\('patch_mean.py'\)",
        ):
            load(folder)  # fmt: skip
    plugins.load(file)
    assert torch.equal(vitkit.load(folder).model(images), expected)


@pytest.mark.parametrize("key", ["family", "plugin"])
def test_a_checkpoint_never_runs_code(key: str, start: Start, tmp_path: Path, forget: Callable[[], None]) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'was-run')!r}, 'w').close()\n")
    folder = tmp_path / "model"
    model = models.build(vit.TINY)
    labels = tuple(map(str, range(vit.TINY.num_classes)))
    checkpoint = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=labels)
    checkpoints.save(checkpoint, folder, to="vitkit")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["family"] = f"{evil}:Model" if key == "family" else "evil"
    config["plugin"] = {"name": str(evil), "is_file": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="belongs to the plug-in file"):
        vitkit.load(folder)
    assert not (tmp_path / "was-run").exists()


def test_a_run_folder_does_not_bring_its_own_code(start: Start, tmp_path: Path, forget: Callable[[], None]) -> None:
    folder = tmp_path / "run"
    train(small_run(start), folder)
    focal = folder / "focal.py"
    focal.write_text((tmp_path / "focal.py").read_text())
    saved = json.loads((folder / "config.json").read_text())
    saved["plugins"][1]["plugin"] = str(focal)
    (folder / "config.json").write_text(json.dumps(saved))
    forget()
    with pytest.raises(
        ValueError, match=r"uses the objective 'focal' of .* is inside the folder whose config.json names"
    ):
        RunFolder(folder).run()
    forget()
    plugins.load(focal)
    assert objectives.name_of(RunFolder(folder).run().objective) == "focal"


def test_a_plugin_that_was_moved_is_named(start: Start, tmp_path: Path, forget: Callable[[], None]) -> None:
    text = runs.to_json(small_run(start))
    (tmp_path / "other").mkdir()
    (tmp_path / "focal.py").rename(tmp_path / "other" / "focal_loss.py")
    forget()
    with pytest.raises(
        PluginError,
        match=r"the run uses the objective 'focal' of .*focal\.py, which cannot be used: .*"
        r"does not exist.*; give the file that has it \(--plugin FILE",
    ):
        runs.from_json(text)  # fmt: skip
    (tmp_path / "other" / "focal_loss.py").rename(tmp_path / "other" / "focal.py")
    forget()
    plugins.load(tmp_path / "other" / "focal.py")
    assert objectives.name_of(runs.from_json(text).objective) == "focal"


@pytest.mark.parametrize("wrong", [5, [5], [{"kind": "objective"}], [{"kind": "x", "name": "y", "plugin": ""}]])
def test_an_invalid_list_of_plugins_is_an_error(wrong: object) -> None:
    text = json.dumps({**runs.to_dict(recipe("digits.tiny")), "plugins": wrong})
    with pytest.raises(PluginError, match="'plugins' of the run config"):
        runs.from_json(text)


def test_worker_processes_read_a_source_of_a_file(start: Start) -> None:
    shapes = splits(f"{start('source', 'shapes')}?number=6,size=16")["all"]
    alone = [batch.images for batch in evaluation_batches(shapes, Transform(Processor.squash(8)), batch_size=4)]
    together = evaluation_batches(shapes, Transform(Processor.squash(8)), batch_size=4, workers=1)
    assert all(torch.equal(one, other.images) for one, other in zip(alone, together, strict=True))
