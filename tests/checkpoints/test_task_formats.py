"""What outputs mean survives every format that can store it; the others raise an error that says so."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image
from tiny_vits import SUPPORTED, TINY, checkpoint, images

import vitkit
from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError
from vitkit.checkpoints.formats import all_formats
from vitkit.checkpoints.formats.timm import bit as timm_bit
from vitkit.checkpoints.formats.timm.hybrid import IMPLIED
from vitkit.checkpoints.load import UNTRAINED
from vitkit.data.processor import Processor
from vitkit.models import bit, hybrid
from vitkit.task import SINGLE_LABEL, Task

LABELS = Task(problem_type="multi_label_classification", threshold=(0.1, 0.5, 0.9))
NUMBERS = Task(problem_type="regression", target_mean=(35.0, -2.0, 0.0), target_std=(12.5, 0.01, 1.0))
NUMBER = Task(problem_type="regression", target_mean=(1987.0,), target_std=(9.0,))
TASKS = {"labels": LABELS, "numbers": NUMBERS, "one number": NUMBER, "one label": SINGLE_LABEL}
HYBRID = dataclasses.replace(hybrid.TINY, activation="gelu", norm_eps=1e-6, patch_size=(8, 8), depths=(), **IMPLIED)
BIT = bit.Config(image_size=(32, 32), depths=(3, 4, 6, 3), **timm_bit.IMPLIED)
FOLDERS = [each for each in all_formats() if not each.suffix]


def with_task(config: Any, task: Task) -> Checkpoint:
    """A model with random weights, also of its head."""
    outputs = 1 if task in (NUMBER, SINGLE_LABEL) else 3
    config = dataclasses.replace(config, num_classes=outputs, task=task)
    torch.manual_seed(0)
    model = models.build(config).eval()
    with torch.no_grad():
        for parameter in model.head_parameters().values():
            parameter.normal_()
    names = ("age", "width", "depth")[:outputs]
    return Checkpoint(model=model, processor=Processor.squash(config.image_size), labels=names)


def scores_of(made: Checkpoint, batch: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return made.model.config.task.scores(made.model(batch).double().numpy())


FAST = ("huggingface", "timm", "vitkit", "deit_timm", "resnet_huggingface")


def supported(format_name: str, task: Task) -> Checkpoint | None:
    """A model that the format supports, or None."""
    each = next(one for one in FOLDERS if one.name == format_name)
    configs = [models.family(name).TINY for name in models.families() if each.family in (None, name)]
    configs += [*SUPPORTED.get(format_name, []), HYBRID, BIT]
    for config in configs:
        if each.family in (None, models.family_of(config)):
            made = with_task(config, task)
            if each.unsupported_reason(made.model.config) is None:
                return made
    return None


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize(
    "name", [pytest.param(each.name, marks=[pytest.mark.slow] * (each.name not in FAST)) for each in FOLDERS]
)
def test_every_folder_stores_every_task(name: str, task: Task, tmp_path: Path) -> None:
    made = supported(name, task)
    if made is None:
        pytest.skip(f"{name} stores no head, or none of the tiny models")
    to = next(each.targets[0] for each in FOLDERS if each.name == name)
    checkpoints.save(made, tmp_path / "a", to=to)
    loaded = checkpoints.load(tmp_path / "a")
    assert loaded.origin.format == name
    assert loaded.model.config.task == task
    assert loaded.labels == made.labels
    batch = images(made.model.config.image_size, made.model.config.channels)
    expected = scores_of(made, batch)
    np.testing.assert_allclose(scores_of(loaded, batch), expected, rtol=1e-5, atol=1e-5)
    # Also through another folder, and a new head keeps only the problem type.
    checkpoints.convert(tmp_path / "a", tmp_path / "b", "vitkit")
    checkpoints.convert(tmp_path / "b", tmp_path / "c", to)
    np.testing.assert_allclose(scores_of(checkpoints.load(tmp_path / "c"), batch), expected, rtol=1e-5, atol=1e-5)
    assert checkpoints.load(tmp_path / "c").model.config.task == task
    assert checkpoints.load(tmp_path / "c", num_classes=7).model.config.task == task.for_new_head()


@pytest.mark.parametrize("name", [each.name for each in all_formats() if each.suffix and each.name in SUPPORTED])
def test_single_files_reject_a_task_that_they_cannot_store(name: str, tmp_path: Path) -> None:
    each = next(one for one in all_formats() if one.name == name)
    made = checkpoint(next(config for config in SUPPORTED[name] if config.num_classes))
    made.model.config = dataclasses.replace(made.model.config, task=Task(problem_type="multi_label_classification"))
    target = tmp_path / f"x{each.suffix}"
    with pytest.raises(CheckpointError, match=r"cannot store the task of the model .*use to='huggingface'"):
        checkpoints.save(made, target, to=name)
    assert not target.exists()
    checkpoints.save(made, tmp_path / "folder", to="vitkit")
    plain = checkpoints.load(tmp_path / "folder", config={"task.problem_type": "single_label_classification"})
    checkpoints.save_checked(plain, target, to=name, lossy=True)
    assert checkpoints.load(target).model.config.task == SINGLE_LABEL
    # The meaning that the file cannot store can be given.
    loaded = checkpoints.load(
        target, config={"task.problem_type": "multi_label_classification", "task.threshold": "0.3"}
    )
    assert loaded.model.config.task == Task(problem_type="multi_label_classification", threshold=0.3)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_transformers_pipeline_gives_the_same_scores(task: Task, tmp_path: Path) -> None:
    transformers = oracle("transformers")
    made = with_task(dataclasses.replace(TINY, position_resize="bicubic"), task)
    checkpoints.save(made, tmp_path / "a", to="huggingface")
    stated = json.loads((tmp_path / "a" / "config.json").read_text()).get("problem_type")
    assert stated == (None if task == SINGLE_LABEL else task.problem_type)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    theirs = transformers.pipeline("image-classification", model=str(tmp_path / "a"), device="cpu")(image)
    ((_, ours),) = vitkit.load(tmp_path / "a").classify(image, precision="float32")
    drop_in = vitkit.pipeline(model=str(tmp_path / "a"))(image)
    scores = {each["label"]: each["score"] for each in theirs}
    # Their resampling of the image differs by rounding.
    assert {each.label: each.score for each in ours} == pytest.approx(scores, rel=1e-2, abs=1e-2)
    assert {each["label"]: each["score"] for each in drop_in} == pytest.approx(scores, rel=1e-2, abs=1e-2)
    assert [each.value is None for each in ours] == [not task.regression] * len(ours)


@pytest.mark.parametrize("task", [LABELS, NUMBERS], ids=["labels", "numbers"])
def test_timm_predicts_the_same_numbers(task: Task, tmp_path: Path) -> None:
    timm = oracle("timm")
    made = with_task(TINY, task)
    checkpoints.save(made, tmp_path / "a", to="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'a'}", pretrained=True).eval()
    batch = images((32, 32))
    with torch.no_grad():
        outputs = theirs(batch).double().numpy()
    expected = scores_of(made, batch)
    np.testing.assert_allclose(outputs if task.regression else task.scores(outputs), expected, rtol=1e-5, atol=1e-5)


def test_a_folder_of_transformers_keeps_its_problem_type(tmp_path: Path) -> None:
    transformers = oracle("transformers")
    for problem in ("regression", "multi_label_classification", "single_label_classification", None):
        config = transformers.ViTConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32,
            patch_size=8, num_labels=3, problem_type=problem,
        )  # fmt: skip
        folder = tmp_path / str(problem)
        transformers.ViTForImageClassification(config).save_pretrained(folder)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        loaded = checkpoints.load(folder)
        assert loaded.model.config.task.problem_type == (problem or "single_label_classification")
        checkpoints.save(loaded, folder / "again")
        again = transformers.ViTConfig.from_pretrained(folder / "again").problem_type
        assert again == (problem if problem != "single_label_classification" else None)


def test_statistics_of_another_head_are_ignored_with_a_note(tmp_path: Path) -> None:
    checkpoints.save(with_task(TINY, NUMBER), tmp_path / "a", to="huggingface")
    path = tmp_path / "a" / "config.json"
    data = json.loads(path.read_text())
    data["vitkit"]["task"] = {"target_mean": [1.0, 2.0], "target_std": [1.0, 1.0]}
    path.write_text(json.dumps(data))
    loaded = checkpoints.load(tmp_path / "a")
    assert loaded.model.config.task == Task(problem_type="regression")
    assert any("belong to another head" in note for note in loaded.origin.notes)
    for stored, message in (
        ({"problem_type": "ranking"}, "'task.problem_type' is 'ranking'"),
        ({"problem_type": ["regression"]}, "'task.problem_type' is"),
        ({"vitkit": {"task": {"threshold": 7}}}, "each threshold must be between 0 and 1"),
        ({"vitkit": {"task": {"threshold": [0.1, 0.2]}}}, "task.threshold has 2 numbers"),
        ({"vitkit": {"task": {"mean": 1}}}, "unknown key 'task.mean'"),
    ):
        path.write_text(json.dumps(data | stored))
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load(tmp_path / "a")


def test_an_untrained_head_is_noted_and_warned_of(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32))
    trained = with_task(TINY, LABELS)
    checkpoints.save(trained, tmp_path / "trained")
    assert UNTRAINED not in checkpoints.load(tmp_path / "trained").origin.notes
    new = vitkit.load(tmp_path / "trained", num_classes=4)
    assert new.origin is not None
    assert UNTRAINED in new.origin.notes
    with pytest.warns(vitkit.UntrainedHeadWarning, match="the head is untrained"):
        assert [each.score for _, (each, *_) in new.classify(image)] == [0.5]
    with torch.no_grad():
        trained.model.head_parameters()["head.weight"].zero_()  # a bias alone says nothing about an image
    checkpoints.save(trained, tmp_path / "zero")
    assert checkpoints.load(tmp_path / "zero").origin.notes[-1] == UNTRAINED
    with torch.no_grad():
        new.model.head_parameters()["head.weight"].normal_()
    list(new.classify(image))
