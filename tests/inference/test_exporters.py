"""Contract of exports: every family and target matches the original model or raises an ExportError."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from slow_cases import slow_except

import vitkit
from vitkit import checkpoints, models
from vitkit.data.loader import Batch
from vitkit.data.processor import HALF, Processor
from vitkit.evaluation import ModelOutputs, evaluate
from vitkit.images import ImageError
from vitkit.inference import Predictor, runtimes
from vitkit.inference.runtimes._exported import ExportedModel

FAMILIES = models.families()
TARGETS = runtimes.targets()
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "program": ()}
# OpenVINO 2026.4 fails to compile it ("Cannot get length of dynamic dimension"): the error is tested.
UNSUPPORTED = {("axial_resnet", "openvino")}


def needs(target: str) -> None:
    for library in LIBRARIES[target]:
        pytest.importorskip(library, reason=f"exporting to {target} needs {library}: pip install 'vitkit[export]'")


def checkpoint(name: str = "vit", seed: int = 0, **changes: object) -> checkpoints.Checkpoint:
    """Returns a checkpoint of a small model without zero weights."""
    torch.manual_seed(seed)
    model = models.build(dataclasses.replace(models.family(name).TINY, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    channels = model.config.channels
    return checkpoints.Checkpoint(
        model=model,
        processor=Processor.squash(model.config.image_size, mean=HALF[:channels], std=HALF[:channels]),
        labels=tuple(f"class {index}" for index in range(model.config.num_classes)),
    )


def cases() -> list[object]:
    every = [(family, target) for family in FAMILIES for target in TARGETS]
    # test_export_files.py exports the ViT to ONNX by default.
    fast = [("vit", "program")]
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow) for case in every]


@pytest.mark.parametrize(("family", "target"), cases())
def test_exported_family_matches_or_raises(family: str, target: str, tmp_path: Path) -> None:
    needs(target)
    made = checkpoint(family)
    if (family, target) in UNSUPPORTED:
        with pytest.raises(runtimes.ExportError, match=target):
            runtimes.export(made, tmp_path / "out", to=target)
        assert not list(tmp_path.iterdir())
        return
    runtimes.export(made, tmp_path / "out", to=target)
    opened = vitkit.load(tmp_path / "out")
    assert opened.labels == made.labels
    assert opened.processor == made.processor
    # Images and batch sizes that the exporter has not tested.
    for batch in (1, 2, 5):
        images = torch.randn(batch, made.model.config.channels, *made.model.config.image_size)
        with torch.inference_mode():
            features = made.model.features(images)
            actual = opened.features(images)
            assert actual.grid == features.grid
            assert actual.num_special == features.num_special
            torch.testing.assert_close(actual.tokens, features.tokens, atol=2e-4, rtol=1e-4)
            expected = made.model.represent(features)
            torch.testing.assert_close(opened.model.represent(actual), expected, atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(opened(images), made.model(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", slow_except(TARGETS, "program"))
def test_a_model_without_classes_or_pooling(target: str, tmp_path: Path) -> None:
    needs(target)
    made = checkpoint(num_classes=0, pool="none")
    runtimes.export(made, tmp_path / "out", to=target)
    opened = vitkit.load(tmp_path / "out")
    assert opened.labels == ()
    images = torch.randn(3, 3, *made.model.config.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(opened(images), made.model(images), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program") / "out"
    runtimes.export(checkpoint(), folder, to="program")
    return folder


def test_export_with_different_outputs_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitkit.inference.runtimes import program as exporter

    other = runtimes.trace(checkpoint(seed=1, depth=1).model)
    true_write = exporter.write
    monkeypatch.setattr(exporter, "write", lambda traced, path, precision: true_write(other, path, precision))
    with pytest.raises(
        runtimes.ExportError,
        match=r"the logits of the model exported to .* differ from .* by .*; the limit is .*, so no files were saved",
    ):
        runtimes.export(checkpoint(depth=1), tmp_path / "out", to="program")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_difference_in_tokens_only_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a zero head the logits of any two models are equal."""
    from vitkit.inference.runtimes import program as exporter

    made, other = checkpoint(), checkpoint(seed=1)
    for each in (made, other):
        each.model.reset_head(5)
    traced, true_write = runtimes.trace(other.model), exporter.write
    monkeypatch.setattr(exporter, "write", lambda _, path, precision: true_write(traced, path, precision))
    with pytest.raises(runtimes.ExportError, match="the representations of the model exported"):
        runtimes.export(made, tmp_path / "out", to="program")


def test_nan_outputs_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitkit.inference.runtimes import program as exporter

    broken = checkpoint(depth=1)
    with torch.no_grad():
        broken.model.head.weight.fill_(float("nan"))
    traced, true_write = runtimes.trace(broken.model), exporter.write
    monkeypatch.setattr(exporter, "write", lambda _, path, precision: true_write(traced, path, precision))
    with pytest.raises(runtimes.ExportError, match="by inf; the limit"):
        runtimes.export(checkpoint(depth=1), tmp_path / "out", to="program")


def test_failed_export_leaves_existing_files_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitkit.inference.runtimes import program as exporter

    runtimes.export(checkpoint(depth=1), tmp_path / "out", to="program")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(traced: object, path: Path, precision: str) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("no such operator\nin three lines")

    monkeypatch.setattr(exporter, "write", fail)
    with pytest.raises(
        runtimes.ExportError, match="program does not support this model: no such operator in three lines"
    ):
        runtimes.export(checkpoint(depth=1), tmp_path / "out", to="program", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(checkpoints.CheckpointError, match="overwrite"):
        runtimes.export(checkpoint(), tmp_path / "out", to="program")


def test_model_is_not_changed() -> None:
    made = checkpoint(depth=1)
    made.model.train()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    runtimes.trace(made.model)
    assert made.model.training
    assert all(parameter.requires_grad for parameter in made.model.parameters())
    for name, value in made.model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_unknown_target_or_precision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown export target 'onix'; did you mean"):
        runtimes.export(checkpoint(), tmp_path / "out", to="onix")
    with pytest.raises(ValueError, match="the precision is 'float16', but program supports only float32"):
        runtimes.export(checkpoint(), tmp_path / "out", to="program", precision="float16")
    with pytest.raises(ValueError, match="meta device"):
        runtimes.trace(models.build(models.family("vit").TINY, device="meta"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("target", "library"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_missing_extra_error_has_the_install_command(
    target: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"pip install 'vitkit\[export\]'$"):
        runtimes.export(checkpoint(), tmp_path / "out", to=target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("target", "library"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_missing_runtime_error_has_the_install_command(
    target: str, library: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setitem(sys.modules, library, None)
    config_json = json.loads((program / "config.json").read_text())
    config_json["export"]["target"] = target
    (tmp_path / "config.json").write_text(json.dumps(config_json))
    (tmp_path / "preprocessor_config.json").write_bytes((program / "preprocessor_config.json").read_bytes())
    (tmp_path / runtimes.runtime(target).FILE).write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'vitkit\[export\]'$"):
        vitkit.load(tmp_path)


def images_in(folder: Path, num: int = 5) -> list[Path]:
    from PIL import Image

    generator = np.random.default_rng(0)
    paths = []
    for index in range(num):
        path = folder / f"{index}.png"
        Image.fromarray(generator.integers(0, 256, (20 + index, 31, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def test_predictor_gives_the_same_outputs_with_an_export(program: Path, tmp_path: Path) -> None:
    made, opened = checkpoint(), vitkit.load(program)
    paths = images_in(tmp_path)
    paths[2].write_bytes(b"not an image")
    for method in ("logits", "embeddings"):
        expected = list(getattr(Predictor(made.model, made.processor, device="cpu"), method)(paths))
        actual = list(getattr(Predictor(opened.model, opened.processor, batch_size=2), method)(paths))
        assert [each.source for each in actual] == paths
        assert [each.error.code if each.error else None for each in actual] == [None, None, "not_an_image", None, None]
        for one, other in zip(actual, expected, strict=True):
            if one.output is not None:
                np.testing.assert_allclose(one.output, other.output, atol=1e-4)
    with pytest.raises(ImageError):
        list(opened.classify(paths))


def test_evaluators_give_the_same_results_with_an_export(program: Path) -> None:
    made, opened = checkpoint(), vitkit.load(program)
    images = torch.randn(12, 3, *made.model.config.image_size, generator=torch.Generator().manual_seed(0))
    targets = torch.nn.functional.one_hot(torch.arange(12) % 5, 5).float()
    batches = [Batch(images[:7], targets[:7], ("",) * 7), Batch(images[7:], targets[7:], ("",) * 5)]
    results = [
        evaluate(ModelOutputs(model, lambda: batches, made.labels, training=lambda: batches), ["top1", "knn"])
        for model in (made.model, opened.model)
    ]
    assert results[0] == pytest.approx(results[1], abs=1e-4)


def test_unsupported_operations_raise_errors(program: Path) -> None:
    opened = vitkit.load(program)
    assert isinstance(opened.model, ExportedModel)
    size = opened.config.image_size
    for message, call in (
        ("exported for images of shape", lambda: opened(torch.zeros(1, 3, size[0] * 2, size[1]))),
        (
            "runs only on the CPU in float32, not in",
            lambda: Predictor(opened.model, opened.processor, precision="bfloat16").model,
        ),
        ("has no state dict", lambda: opened.model.state_dict()),
        ("head of an exported model cannot be changed", lambda: opened.model.reset_head(3)),
        ("cannot be initialized", lambda: opened.model.init_weights()),
        ("image_size cannot be changed", lambda: vitkit.load(program, image_size=64)),
        ("pass the checkpoint from which it was exported", lambda: checkpoints.load(program)),
        (
            "accepts only features that it computed itself",
            lambda: opened.model.logits(checkpoint().model.features(torch.zeros(1, 3, *size))),
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target", "tensorrt", "unknown export target 'tensorrt'"),
        ("outputs", ["logits"], "the export must have an output named 'tokens'"),
        ("outputs", "tokens", "export.outputs"),
        ("grid", [0, 2], "grid"),
        ("file", "../../secret", "unknown key 'export.file'"),
    ],
)
def test_invalid_config_raises_one_line_error(
    key: str, value: object, message: str, program: Path, tmp_path: Path
) -> None:
    for path in program.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config_json = json.loads((program / "config.json").read_text())
    config_json["export"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config_json))
    with pytest.raises(checkpoints.CheckpointError, match=message) as caught:
        vitkit.load(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps(config_json | {"vitkit": 99}))
    with pytest.raises(checkpoints.CheckpointError, match="version 99"):
        vitkit.load(tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_invalid_model_file_raises_one_line_error(target: str, program: Path, tmp_path: Path) -> None:
    needs(target)

    config_json = json.loads((program / "config.json").read_text())
    config_json["export"]["target"] = target
    (tmp_path / "config.json").write_text(json.dumps(config_json))
    (tmp_path / "preprocessor_config.json").write_bytes((program / "preprocessor_config.json").read_bytes())
    with pytest.raises(checkpoints.CheckpointError, match=f"model file {runtimes.runtime(target).FILE} is missing"):
        vitkit.load(tmp_path)
    (tmp_path / runtimes.runtime(target).FILE).write_bytes(b"\0" * 1000)
    with pytest.raises(checkpoints.CheckpointError, match=runtimes.runtime(target).FILE) as caught:
        vitkit.load(tmp_path)
    assert "\n" not in str(caught.value)
