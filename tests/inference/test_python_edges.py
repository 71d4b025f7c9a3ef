"""Calls of loaded models from Python code: dtypes, modes, empty inputs, the legacy ONNX exporter, and wrong values."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel
from vitkit.data.processor import Processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny transformers model with dropout, and a photo."""
    path = tmp_path_factory.mktemp("edges") / "model"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.get_parameter("classifier.weight"))
    model.save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.parent / "photo.png")
    return path


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """Disables the shape checks of the tests, which reject such images before the model does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "convert", [lambda model: model.bfloat16(), lambda model: model.half(), lambda model: model.double()]
)
def test_a_model_of_another_dtype_takes_the_output_of_its_processor(
    folder: Path, convert: Callable[[Any], Any]
) -> None:
    classifier = vitkit.load(folder)
    images = classifier.processor([folder.parent / "photo.png"])
    expected = classifier(images)
    converted = convert(classifier)
    given = converted(images)
    assert given.dtype == next(converted.parameters()).dtype
    torch.testing.assert_close(given.float(), expected, atol=0.05, rtol=0.05)
    assert converted.features(images).tokens.dtype == given.dtype


@pytest.mark.usefixtures("no_shape_checks")
def test_loading_in_bfloat16_works_as_documented(folder: Path) -> None:
    classifier = vitkit.load(folder, dtype=torch.bfloat16)
    assert classifier(classifier.processor([folder.parent / "photo.png"])).dtype == torch.bfloat16


def test_the_training_flag_is_that_of_the_model(folder: Path) -> None:
    classifier = vitkit.load(folder, config={"dropout": 0.5})
    assert not any(module.training for module in classifier.modules())
    before = classifier.training
    classifier.eval()
    classifier.train(before)
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(classifier(images), classifier(images))
    assert not classifier.processor([]).numel()
    assert classifier(classifier.processor([])).shape == (0, 3)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["classifier", "classification", "model"])
def test_the_legacy_onnx_exporter_exports_models(folder: Path, kind: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the model: pip install 'vitkit[export]'")
    pytest.importorskip("onnx", reason="writes the model: pip install 'vitkit[export]'")
    make = {
        "classifier": vitkit.load,
        "classification": ViTForImageClassification.from_pretrained,
        "model": ViTModel.from_pretrained,
    }[kind]
    model: Any = make(folder).eval()
    images, file = torch.randn(1, 3, 32, 32), str(tmp_path / "model.onnx")
    torch.onnx.export(model, (images,), file, dynamo=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (first, *_) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        outputs = model(images)
    expected = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs.values()))
    np.testing.assert_allclose(first, expected.numpy(), atol=1e-4)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("make", [vitkit.load, ViTForImageClassification.from_pretrained, ViTModel.from_pretrained])
@pytest.mark.parametrize("shape", [(3, 32, 32), (32, 32), (1, 1, 3, 32, 32)])
def test_images_without_four_axes_are_named(folder: Path, make: Callable[[Path], Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have the shape \(batch, channels, height, width\), got \(") as caught:
        make(folder)(torch.zeros(shape))
    assert ("images[None]" in str(caught.value)) == (len(shape) == 3)


@pytest.mark.parametrize("name", ["image_size", "patch_size"])
@pytest.mark.parametrize("value", [(64, 64, 3), (64,), "64", 64.0, 0, -8, (64, 0), True, [32, None]])
def test_a_wrong_size_is_one_sentence(folder: Path, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} is .*; it must be a positive integer or \(height, width\)"):
        vitkit.load(folder, **{name: value})


def test_other_wrong_options_are_one_sentence(folder: Path) -> None:
    for wrong in (-3, "x", 1.5):
        with pytest.raises(ValueError, match=r"num_classes is .*; it must be an integer of at least 0"):
            vitkit.load(folder, num_classes=wrong)
    for dtype in ("float16", np.float32):
        with pytest.raises(ValueError, match=r"dtype is .*; it must be a torch\.dtype"):
            vitkit.load(folder, dtype=dtype)


@pytest.mark.parametrize("name", ["do_resise", "zzz"])
def test_a_typo_lists_the_settings_at_most_once(name: str) -> None:
    for call in (
        lambda: ViTImageProcessor(**{name: 1}),
        lambda: ViTImageProcessor()(Image.new("RGB", (4, 4)), **{name: 1}),
    ):
        with pytest.raises(TypeError, match=name) as caught:
            call()
        assert str(caught.value).count("do_normalize") <= 1


def test_an_empty_list_of_images() -> None:
    assert Processor.squash(8)([]).shape == (0, 3, 8, 8)
    assert Processor.squash(8, mean=(0.5,) * 5, std=(1.0,) * 5)([]).shape == (0, 5, 8, 8)
    assert ViTImageProcessor()([])["pixel_values"] == []
    with pytest.raises(ValueError, match="no images"):
        ViTImageProcessor()([], return_tensors="pt")
