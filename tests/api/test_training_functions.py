"""`vitkit.train`, `finetune`, `resume`, `evaluate`, `predict`, `create_model` and the lists, as people call them."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import checkpoints, models, training
from vitkit.api._runs import TrainedRun, recipe_run
from vitkit.data.processor import Processor
from vitkit.recipes import recipe
from vitkit.training.override import override

LABELS = ("blue", "red")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with red and blue images in class folders, a table of them, and a tiny checkpoint of two classes."""
    root = tmp_path_factory.mktemp("functions")
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    rows = ["path,label"]
    for number in range(8):
        for label, channel in (("red", 0), ("blue", 2)):
            pixels = random.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 190
            path = root / "photos" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append(f"photos/{label}/{number}.png,{label}")
    (root / "photos.csv").write_text("\n".join(rows))
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=2))
    torch.nn.init.normal_(model.head.weight)
    checkpoints.save(checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=LABELS), root / "model")
    return root


@pytest.fixture(scope="module")
def run(place: Path) -> TrainedRun:
    """A run of eight steps that finetunes the checkpoint on a folder, which is named without its source."""
    return vitkit.finetune(
        place / "model", place / "photos", out=place / "run", steps=8, lr=0.05, batch_size=8, device="cpu"
    )


def test_a_finished_run_tells_what_it_has(run: TrainedRun, place: Path) -> None:
    assert run.folder == place / "run"
    assert run.report.is_file()
    assert run.metric == "top1.accuracy"
    assert run.metrics["top1.accuracy"] == run.score
    assert run.config.data.source == f"folder:{place / 'photos'}"
    assert {"start", "step", "evaluation"} <= {event["kind"] for event in run.log}
    assert repr(run).splitlines() == [
        f"TrainedRun({run.summary})",
        f"  model:  {place / 'run' / 'best'}",
        f"  report: {place / 'run' / 'report.html'}",
    ]
    assert run.summary == f"top1.accuracy {run.score:.2%} at step {run.step}"
    assert run.model().labels == LABELS


def test_a_run_is_extended_from_its_folder(run: TrainedRun, place: Path) -> None:
    """Nothing is retyped: the data, the settings and the checkpoint come from the folder."""
    longer = vitkit.resume(run.folder, steps=10)
    assert longer.config == replace(run.config, steps=10)
    assert max(event["step"] for event in longer.log if event["kind"] == "step") == 10
    with pytest.raises(ValueError, match=r"already trained for 10 steps, but steps is 4"):
        vitkit.resume(run.folder, steps=4)
    with pytest.raises(ValueError, match=r"'optimizer\.lr' cannot be changed in a resumed run"):
        vitkit.resume(run.folder, settings={"optimizer.lr": 1.0})
    with pytest.raises(ValueError, match="is not a run folder"):
        vitkit.resume(place / "nothing")
    assert not (place / "nothing").exists()


def test_progress_goes_to_the_logger(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vitkit"):
        vitkit.train(
            model="vit-mu/16", data=place / "photos.csv", image_size=32, steps=2, batch_size=4, out=tmp_path / "run"
        )
    assert capfd.readouterr() == ("", "")
    assert any(record.getMessage().startswith("step      2 of 2   top1.accuracy") for record in caplog.records)
    assert {record.name for record in caplog.records} == {"vitkit"}
    assert any("the processor is for 32 x 32 pixels" in record.getMessage() for record in caplog.records)


def test_a_setting_is_given_once(place: Path, tmp_path: Path) -> None:
    for name, setting in (("steps", "steps"), ("lr", "optimizer.lr"), ("batch_size", "batch_size")):
        with pytest.raises(ValueError, match=f"'{setting}' was given twice, as 2 and as 3; give it once"):
            vitkit.train("digits.tiny", out=tmp_path / "run", settings={setting: 3}, **{name: 2})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"'{setting}' was given twice, as 2 and as 3; give it once"):
            vitkit.finetune(place / "model", place / "photos", settings={setting: 3}, **{name: 2})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set either steps or epochs or minutes, not several"):
        vitkit.train("digits.tiny", steps=3, epochs=4, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_recipe_needs_a_model_and_data(place: Path) -> None:
    with pytest.raises(ValueError, match="needs the name of an architecture and data"):
        vitkit.train(data=place / "photos")
    with pytest.raises(ValueError, match=r"unknown model 'vit-b/15'; did you mean 'vit-b/16'\?"):
        vitkit.train(model="vit-b/15", data=place / "photos")
    with pytest.raises(ValueError, match="unknown objective 'mea'"):
        vitkit.train(model="vit-b/16", data=place / "photos", objective="mea")
    run, folder = recipe_run(None, model="vit_tiny_patch16_224", data=place / "photos", objective="mae")
    assert folder == Path("runs/vit_tiny_patch16_224-photos")
    assert (run.model.width, run.model.num_classes, run.metric, run.select) == (192, 2, "knn.k20", "last")
    assert training.run.to_dict(run)["objective"]["objective"] == "mae"


MODELS = {
    "vit-s/16": (384, 224),
    "vit_small_patch16_384": (384, 384),
    "google/vit-base-patch16-224": (768, 224),
    "facebook/deit-tiny-patch16-224": (192, 224),
}


@pytest.mark.parametrize(("name", "expected"), MODELS.items())
def test_the_name_of_an_architecture_is_a_setting(name: str, expected: tuple[int, int]) -> None:
    """`--set model=vit-s/16` and `--model vit-s/16` keep the classes of the recipe, and fit the processor."""
    width, size = expected
    for run in (override(recipe("digits.tiny"), {"model": name})[0], recipe_run("digits.tiny", model=name)[0]):
        assert (run.model.width, run.model.num_classes, run.model.channels) == (width, 10, 3)
        assert run.model.image_size == run.processor.size == (size, size)
        assert training.run.from_json(training.run.to_json(run)) == run


def test_settings_follow_from_others_unless_they_are_chosen() -> None:
    tiny = recipe("digits.tiny")
    shorter, notes = override(tiny, {"steps": "20"})
    assert (shorter.steps, shorter.schedule.warmup) == (20, 2)
    assert notes == ["schedule.warmup is 2 instead of 120, because the run has 20 steps"]
    assert override(tiny, {"steps": 20, "schedule.warmup": 5})[0].schedule.warmup == 5
    epochs, _ = override(tiny, {"epochs": 3})
    assert (epochs.steps, epochs.epochs) == (None, 3.0)
    assert recipe_run("digits.tiny", epochs=2)[0].schedule.warmup == 4
    small, _ = override(tiny, {"model": "vit-mu/16", "model.image_size": (32, 32), "objective": "beit"})
    assert small.processor.size == (32, 32)
    assert small.objective.mean == small.processor.mean
    dino, _ = override(tiny, {"objective": "dino", "epochs": 7})
    assert dino.objective.epochs == 7
    fourband, _ = override(tiny, {"model.channels": 4})
    assert fourband.processor.channels == 4
    other, notes = override(recipe("transfer.pets"), {"model": "vit-s/16"})
    assert other.init_from is None
    assert any(note.startswith("init_from is none instead of") for note in notes)
    assert override(tiny, {"steps": 1200}) == (tiny, [])


def test_evaluate_and_predict_agree(run: TrainedRun, place: Path, tmp_path: Path) -> None:
    found = vitkit.evaluate(run.best, place / "photos", precision="float32", device="cpu", out=tmp_path / "report")
    rows = vitkit.predict(run.best, place / "photos", precision="float32", device="cpu")
    assert len(rows) == len(found.source) == 16
    assert rows.accuracy == found.metrics["top1.accuracy"]
    assert found.predictions is not None
    assert [each.name for each in rows] == list(found.predictions.keys)
    assert [each.correct for each in rows].count(False) == len(rows.mistakes)
    assert repr(found).splitlines()[0] == f"Evaluation({run.best} on folder:{place / 'photos'}, 16 images)"
    assert f"\n  top1.accuracy {rows.accuracy:.2%}" in repr(found)
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["metrics"] == found.metrics
    rows.save(tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "path,split,truth,rank,label,index,score,error"
    assert f"accuracy {rows.accuracy:.2%}" in repr(rows).splitlines()[0]
    assert vitkit.evaluate(run.model(), place / "photos.csv", device="cpu").metrics["top1.images"] == 16


def test_predict_labels_images_without_labels_and_names_unreadable_ones(place: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "flat" / "1.png")
    (tmp_path / "flat" / "2.png").write_bytes(b"nothing")
    rows = vitkit.predict(place / "model", tmp_path / "flat", device="cpu")
    assert [each.name for each in rows] == ["1.png", "2.png"]
    assert [each.truth for each in rows] == [(), ()]
    assert (rows[0].label in LABELS, rows[1].label, rows[1].error is not None) == (True, None, True)
    assert rows.accuracy is None
    with pytest.raises(ValueError, match="has no split 'vall'"):
        vitkit.predict(place / "model", place / "photos", split="vall")


def test_predict_reads_decoded_sources(place: Path) -> None:
    rows = vitkit.predict(place / "model", "part:number=1@digits", device="cpu", batch_size=4)
    assert len(rows) == 10
    assert all(each.label in LABELS for each in rows)
    assert sorted(each.truth[0] for each in rows) == [str(digit) for digit in range(10)]
    named = vitkit.predict(place / "model", f"part:classes=red@{place / 'photos'}", device="cpu")
    assert {each.name for each in named} == {f"red/{number}.png" for number in range(8)}


def test_create_model_builds_and_loads(place: Path) -> None:
    model = vitkit.create_model("vit_tiny_patch16_224", num_classes=3, image_size=32, config={"depth": 2})
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert not model.training
    assert len(model.blocks) == 2
    loaded = vitkit.create_model("vit-mu/16", pretrained=place / "model", num_classes=5, channels=1)
    assert loaded(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
    assert vitkit.create_model(str(place / "model"), pretrained=True).config.num_classes == 2
    for arguments, words in (
        (("vit-b/15",), "unknown model 'vit-b/15'; did you mean 'vit-b/16'"),
        (("vit-b/16", True), "names no published weights"),
        (("vit-s/16", place / "model"), "is not a 'vit-s/16': its width is"),
        (("vit_base_patch16_224.none", True), "timm has no weights 'none' of vit_base_patch16_224"),
    ):
        with pytest.raises(ValueError, match=words):
            vitkit.create_model(*arguments)
    with pytest.raises(ValueError, match="'num_classes' was given twice"):
        vitkit.create_model("vit-mu/16", num_classes=3, config={"num_classes": 4})


def test_the_lists_take_wildcards() -> None:
    assert vitkit.list_models("vit-b/*") == ["vit-b/8", "vit-b/14", "vit-b/16", "vit-b/32"]
    assert set(vitkit.list_models("deit-b")) < set(vitkit.list_models()) == set(models.presets())
    assert vitkit.list_recipes("digits*") == ["digits.tiny"]
    assert vitkit.list_recipes("nothing") == []
