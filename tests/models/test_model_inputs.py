"""What a model is called with: one sentence for images of a wrong type, dtype, layout or size, in every family."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitkit import models
from vitkit.data.processor import Processor
from vitkit.inference import Classifier, Predictor

CASES: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "uint8": (
        lambda x: (x * 255).byte(),
        r"got torch\.uint8 of shape \(2, .*\) with values from \d+ to \d+; preprocess",
    ),
    "int64": (
        lambda x: (x * 255).long(),
        r"got torch\.int64 of shape .*preprocess them with model\.processor\(images\)",
    ),
    "bool": (lambda x: x > 0.5, r"got torch\.bool of shape"),
    "complex": (lambda x: x.to(torch.complex64), r"got torch\.complex64 of shape"),
    "numpy": (lambda x: x.numpy(), r"got a ndarray of shape \(2, .*float32; .*torch\.from_numpy\(images\)"),
    "list": (lambda x: list(x), r"got a list; preprocess images with model\.processor\(images\)"),
    "name": (lambda x: "cat.jpg", r"got a str; preprocess"),
    "PIL": (lambda x: Image.new("RGB", (8, 8)), "got a Image; preprocess"),
    "None": (lambda x: None, "got a NoneType; preprocess"),
    "NHWC": (lambda x: x.permute(0, 2, 3, 1), r"put the channels first with images\.permute\(0, 3, 1, 2\)"),
    "CHW": (lambda x: x[0], r"got \(3, .*\) of dtype float32; add a batch axis with images\[None\]"),
    "HWC": (lambda x: x[0].permute(1, 2, 0), r"with images\.permute\(2, 0, 1\)\[None\]"),
    "two axes": (lambda x: x[0, 0], r"must have the shape \(batch, channels, height, width\), got"),
    "four channels": (lambda x: torch.cat([x, x[:, :1]], dim=1), "takes images with 3 channels, .* 4 channels"),
    "no pixels": (lambda x: x[:, :, :0], "the images have no pixels"),
}


@pytest.fixture(autouse=True)
def no_shape_checks() -> Iterator[None]:
    """Disables the shape checks of the tests, which reject such images before the model does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def tiny(family: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    config = models.family(family).TINY
    return models.build(config).eval(), torch.rand(2, config.channels, *config.image_size)


@pytest.mark.parametrize("family", models.families())
def test_a_wrong_input_is_one_sentence(family: str) -> None:
    model, images = tiny(family)
    for kind, (change, message) in CASES.items():
        given: Any = change(images)
        for call in (model, model.features):
            with pytest.raises(ValueError, match=r".") as caught:
                call(given)
            assert re.search(message, str(caught.value)), (kind, str(caught.value))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", models.families())
def test_other_dtypes_and_memory_formats_work(family: str) -> None:
    model, images = tiny(family)
    with torch.no_grad():
        expected = model(images)
        for given in (images.double(), images.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(model(given), expected, atol=1e-5, rtol=1e-5)
        for given in (images.half(), images.bfloat16()):
            torch.testing.assert_close(model(given), expected, atol=0.1, rtol=0.1)


PATCHES = [name for name in models.families() if hasattr(models.family(name).TINY, "patch_size") and name != "hybrid"]


@pytest.mark.parametrize("family", PATCHES)
def test_a_size_that_is_not_a_multiple_of_the_patch_size_is_an_error(family: str) -> None:
    model, images = tiny(family)
    (rows, columns), (height, width) = model.config.patch_size, images.shape[2:]
    odd = torch.nn.functional.pad(images, (0, columns - 1, 0, 0))
    below, above = f"{height}x{width}", f"{height}x{width + columns}"
    message = f"images of {height}x{width + columns - 1} pixels do not consist of patches .* to {below} or {above}, or"
    with pytest.raises(ValueError, match=message):
        model(odd)
    with torch.no_grad():
        assert torch.isfinite(model.features(torch.nn.functional.pad(images, (0, columns, 0, rows))).tokens).all()
    with pytest.raises(ValueError, match="smaller than one patch"):
        model(images[:, :, : rows - 1])


def test_a_native_size_that_does_not_fill_its_patches_is_cropped_as_in_the_original() -> None:
    model = models.build(models.preset("vit-mu/16", image_size=39, num_classes=3)).eval()
    images = torch.rand(2, 3, 39, 39)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(images[:, :, :32, :32]))


def test_an_image_of_a_wrong_size_does_not_stop_the_others() -> None:
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=32, num_classes=3))
    torch.nn.init.normal_(model.head.weight)
    classifier = Classifier(model, Processor(size=(32, 32), resize="none"), ("a", "b", "c"))
    sizes = [(32, 48), (39, 32), (8, 32), (64, 32)]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    results = classifier.classify(images, errors="yield")
    assert [each.error is None for each in results] == [True, False, False, True]
    assert "images of 39x32 pixels do not consist of patches of 16x16" in str(results[1].error)
    assert "smaller than one patch" in str(results[2].error)


def test_the_fast_copy_checks_its_input() -> None:
    model, images = tiny("vit")
    predictor = Predictor(model, Processor.squash(32), precision="float32")
    for kind in ("uint8", "numpy", "CHW"):
        change, message = CASES[kind]
        given: Any = change(images)
        with pytest.raises(ValueError, match=message):
            predictor.model(given)
