"""Pipelines of everything that `vitkit.load` opens: every family and format, files, exports and loaded classifiers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import checkpoints, models
from vitkit.data.processor import Processor
from vitkit.inference import Classifier, runtimes
from vitkit.task import Task

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def checkpoint(family: str, **changes: Any) -> checkpoints.Checkpoint:
    torch.manual_seed(0)
    config = models.family(family).TINY
    model = models.build(models.configs.override(config, changes) if changes else config)
    for parameter in model.head_parameters().values():
        torch.nn.init.normal_(parameter)
    labels = tuple(f"class {index}" for index in range(model.config.num_classes))
    return checkpoints.Checkpoint(model=model, processor=Processor(size=config.image_size), labels=labels)


def check(source: Any, loaded: Classifier) -> None:
    (expected,) = loaded.classify(IMAGE, top=2, precision="float32")
    found: Any = vitkit.pipeline("image-classification", model=source, device=-1)(IMAGE, top_k=2)
    assert [each["label"] for each in found] == [each.label for each in expected.predictions]
    np.testing.assert_allclose(
        [each["score"] for each in found], [each.score for each in expected.predictions], atol=1e-5
    )
    features: Any = vitkit.pipeline("image-feature-extraction", model=source, device=-1)(IMAGE)
    assert np.asarray(features).ndim >= 2


FAST = ("deit", "resnet", "vit")
FAMILIES = [pytest.param(each, marks=[pytest.mark.slow] * (each not in FAST)) for each in models.families()]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_checkpoint_that_load_opens(family: str, tmp_path: Path) -> None:
    tested = []
    for to in ("vitkit", "huggingface", "timm"):
        try:
            checkpoints.save(checkpoint(family), tmp_path / to, to=to)
        except checkpoints.CheckpointError:
            continue  # the format has no models of this family
        check(tmp_path / to, vitkit.load(tmp_path / to))
        tested.append(to)
    assert "vitkit" in tested


def test_a_file_of_another_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3, activation="gelu_tanh"))
    torch.nn.init.normal_(model.head.weight)
    made = checkpoints.Checkpoint(model=model, processor=Processor.squash(32), labels=("a", "b", "c"))
    checkpoints.save_checked(made, tmp_path / "model.npz", to="npz", lossy=True)
    check(tmp_path / "model.npz", vitkit.load(tmp_path / "model.npz"))


@pytest.mark.parametrize("to", ["program", *(pytest.param(to, marks=pytest.mark.slow) for to in ("onnx", "openvino"))])
def test_exported_models(to: str, tmp_path: Path) -> None:
    if to != "program":
        pytest.importorskip(
            "onnxscript" if to == "onnx" else to, reason="needs the extra: pip install 'vitkit[export]'"
        )
    runtimes.export(checkpoint("vit"), tmp_path / to, to=to)
    check(tmp_path / to, vitkit.load(tmp_path / to))
    pipe = vitkit.pipeline(model=tmp_path / to)
    assert pipe.device.type == "cpu"
    with pytest.raises(ValueError, match="an exported model has no state dict"):
        pipe.save_pretrained(tmp_path / "copy")


def test_a_loaded_classifier(tmp_path: Path) -> None:
    checkpoints.save(checkpoint("hybrid"), tmp_path / "model")
    loaded = vitkit.load(tmp_path / "model")
    check(loaded, loaded)
    vitkit.pipeline(model=loaded).save_pretrained(tmp_path / "copy")
    assert vitkit.load(tmp_path / "copy").labels == loaded.labels


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_the_task_of_the_model(kind: Any, tmp_path: Path) -> None:
    made = checkpoint("hybrid")
    number = made.model.config.num_classes
    statistics: Any = {"target_mean": (3.0,) * number, "target_std": (2.0,) * number} if kind == "regression" else {}
    made.model.config = models.configs.override(made.model.config, {"task": Task(problem_type=kind, **statistics)})
    checkpoints.save(made, tmp_path / "model")
    (expected,) = vitkit.load(tmp_path / "model").classify(IMAGE, precision="float32")
    found: Any = vitkit.pipeline(model=tmp_path / "model", device=-1)(IMAGE, top_k=number)
    by_label = {each["label"]: each["score"] for each in found}
    for prediction in expected.top(number):
        assert by_label[prediction.label] == pytest.approx(prediction.score, abs=1e-4)


def test_options_and_folders_that_cannot_be_loaded(tmp_path: Path) -> None:
    checkpoints.save(checkpoint("hybrid"), tmp_path / "model")
    half = vitkit.pipeline(model=tmp_path / "model", dtype=torch.bfloat16, device=-1)
    assert half.dtype == torch.bfloat16
    assert half(IMAGE)
    with pytest.raises(
        TypeError, match=r"attn_implementation cannot be set for .*; it has the options revision, dtype"
    ):
        vitkit.pipeline(model=tmp_path / "model", attn_implementation="eager")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="Unrecognized model"):
        vitkit.pipeline(model=tmp_path / "empty")
