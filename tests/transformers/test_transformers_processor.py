"""The image processor compared bitwise with the PIL one of transformers, and inputs that only ours supports."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image

from vitkit import ImageError, ViTFeatureExtractor, ViTImageProcessor, ViTImageProcessorFast, ViTImageProcessorPil
from vitkit.images import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (41, 52, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"size": 30},
    {"size": (20, 40), "resample": 3},
    {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 30, "width": 28}},
    {"do_resize": False},
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 0.5, 2.0]},
    {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225), "resample": 1},
]


def values(batch: Any) -> np.ndarray:
    return np.asarray(batch["pixel_values"])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_are_bitwise_equal_to_transformers(hf: ModuleType, settings: dict[str, Any]) -> None:
    images = [IMAGE, PIXELS, PIXELS.transpose(2, 0, 1), torch.from_numpy(PIXELS).permute(2, 0, 1)]
    expected = hf.ViTImageProcessorPil(**settings)(images, return_tensors="np")
    got = ViTImageProcessor(**settings)(images, return_tensors="np")
    assert got.pixel_values.dtype == expected["pixel_values"].dtype
    assert np.array_equal(got.pixel_values, expected["pixel_values"])
    per_call = ViTImageProcessor()(images, return_tensors="np", **settings)
    assert np.array_equal(per_call.pixel_values, expected["pixel_values"])


def test_images_are_bitwise_equal_to_transformers(hf: ModuleType, shared: Path) -> None:
    paths = sorted((shared / "data" / "imagenet_sample").glob("*.JPEG"))[::6]
    assert len(paths) >= 30
    reference, ours = hf.ViTImageProcessorPil(), ViTImageProcessor()
    for path in paths:
        with Image.open(path) as image:
            expected = reference(image.convert("RGB"), return_tensors="np")["pixel_values"]
        assert np.array_equal(values(ours(path)), expected), path.name


@pytest.mark.slow
def test_all_images_are_bitwise_equal_to_transformers(hf: ModuleType, shared: Path) -> None:
    reference, ours = hf.ViTImageProcessorPil(), ViTImageProcessor()
    for path in sorted((shared / "data" / "imagenet_sample").glob("*.JPEG")):
        with Image.open(path) as image:
            expected = reference(image.convert("RGB"), return_tensors="np")["pixel_values"]
        assert np.array_equal(values(ours(path)), expected), path.name


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_unusual_files_match_the_opened_image_or_raise(hf: ModuleType, shared: Path, every: int) -> None:
    """transformers gets the image that `open_image` returns, upright and RGB; ours gets the file."""
    reference, ours, opened = hf.ViTImageProcessorPil(), ViTImageProcessor(), 0
    for path in sorted((shared / "data" / "odd_images").iterdir())[::every]:
        try:
            image = open_image(path, profile="ignore")
        except ImageError:
            with pytest.raises(ImageError):
                ours(path)
            continue
        opened += 1
        expected = reference(image.convert("RGB"), return_tensors="np", input_data_format="channels_last")
        assert np.array_equal(values(ours(path)), expected["pixel_values"]), path.name
    assert opened > 80 // every


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_every_mode_of_pillow_is_supported(mode: str) -> None:
    gray = IMAGE.convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(gray).astype(np.uint16) << 8)
    elif mode == "LAB":
        image = Image.merge("LAB", IMAGE.split())
    elif mode == "PA":
        image = IMAGE.convert("P").convert("PA")
    else:
        image = IMAGE.convert(mode)
    array = values(ViTImageProcessor()(image))
    assert array.shape == (1, 3, 224, 224)
    assert array.dtype == np.float32
    if mode in ("L", "I", "F", "I;16", "LA"):
        assert np.array_equal(array, values(ViTImageProcessor()(gray.convert("RGB"))))
    assert array.std() > 0.1


def test_transparent_pixels_become_white_and_grey_models_get_one_channel() -> None:
    transparent = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert np.array_equal(values(ViTImageProcessor()(transparent)), np.ones((1, 3, 224, 224), np.float32))
    gray = ViTImageProcessor(image_mean=[0.5], image_std=[0.5])
    assert values(gray(IMAGE)).shape == (1, 1, 224, 224)


def test_floats_from_0_to_1_are_recognized(hf: ModuleType) -> None:
    floats = (PIXELS / 255).astype(np.float32)
    ours = ViTImageProcessor()
    expected = values(ours(IMAGE))
    for image in (floats, torch.from_numpy(floats), PIXELS.astype(np.float32), PIXELS.astype(np.int64)):
        assert np.array_equal(values(ours(image)), expected)
    assert values(hf.ViTImageProcessorPil()(floats, return_tensors="np")).max() < -0.98, (
        "transformers makes the image black"
    )
    reference = hf.ViTImageProcessorPil(do_rescale=False)
    assert np.array_equal(values(ViTImageProcessor(do_rescale=False)(floats)), values(reference(floats)))
    assert np.array_equal(values(ours(floats, do_rescale=False)), expected), "the caller has rescaled the image already"
    exact = ours(floats, do_resize=False, return_tensors="np").pixel_values
    np.testing.assert_allclose(exact[0], floats.transpose(2, 0, 1) * 2 - 1, atol=1e-6)
    unrounded = values(hf.ViTImageProcessorPil(do_resize=False, do_rescale=False)(floats, return_tensors="np"))
    assert np.array_equal(values(ours(floats, do_resize=False, do_rescale=False)), unrounded)
    with pytest.raises(ValueError, match="pass the image before it is normalized"):
        ours(floats * 4 - 2)


def test_lists_batches_and_layouts() -> None:
    ours = ViTImageProcessor()
    one = values(ours(IMAGE))[0]
    for images, count in (
        ([IMAGE, IMAGE], 2),
        ([[IMAGE], [IMAGE, PIXELS]], 3),
        (np.stack([PIXELS, PIXELS]), 2),
        (torch.from_numpy(PIXELS).permute(2, 0, 1)[None], 1),
        ((IMAGE,), 1),
    ):
        arrays = ours(images)["pixel_values"]
        assert isinstance(arrays, list)
        assert len(arrays) == count
        assert all(np.array_equal(array, one) for array in arrays)
    last = ours(IMAGE, data_format="channels_last").pixel_values[0]
    assert np.array_equal(last.transpose(2, 0, 1), one)
    narrow = np.zeros((3, 50, 3), np.uint8)
    narrow[0] = 255
    first = values(ours(narrow, input_data_format="channels_first", do_resize=False))
    assert first.shape == (1, 3, 50, 3)
    assert first[0, 0].min() == 1
    assert values(ours(PIXELS[..., 0])).shape == (1, 3, 224, 224)
    padded = ours([IMAGE, IMAGE.crop((0, 0, 20, 30))], do_resize=False, do_pad=True, return_tensors="np").pixel_values
    assert padded.shape == (2, 3, 41, 52)
    assert (padded[1, :, 30:] == 0).all()
    for size in ({"height": 10**6, "width": 10**6}, {"width": 60}):
        with pytest.raises(ValueError, match="expected height and width, at most 120,000,000 pixels"):
            ours(IMAGE, do_pad=True, pad_size=size)
    with pytest.raises(ValueError, match="different shapes; resize them, or use return_tensors=None"):
        ours([IMAGE, IMAGE.crop((0, 0, 20, 30))], do_resize=False, return_tensors="pt")
    with pytest.raises(ValueError, match="data_format is 'sideways'"):
        ours(IMAGE, data_format="sideways")


def test_tensor_types_of_inputs_and_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ViTImageProcessor()
    expected = values(ours(IMAGE))
    assert isinstance(ours(IMAGE, return_tensors="np").pixel_values, np.ndarray)
    batch = ours(images=IMAGE, return_tensors="pt")
    assert batch["pixel_values"] is batch.pixel_values
    assert isinstance(batch.pixel_values, torch.Tensor)
    assert dict(**batch).keys() == {"pixel_values"}
    assert batch.to(torch.bfloat16).pixel_values.dtype is torch.bfloat16
    assert batch.to("cpu").pixel_values.device.type == "cpu"
    jnp = oracle("jax.numpy")
    array = ours(jnp.asarray(PIXELS), return_tensors="jax").pixel_values
    assert type(array).__module__.startswith("jax")
    assert np.array_equal(np.asarray(array), expected)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match='return_tensors="tf" needs TensorFlow: pip install tensorflow'):
        ours(IMAGE, return_tensors="tf")
    with pytest.raises(ValueError, match="return_tensors is 'mx'; expected None or one of 'pt', 'np', 'jax', 'tf'"):
        ours(IMAGE, return_tensors="mx")


def test_unknown_settings_raise() -> None:
    for call in (
        lambda: ViTImageProcessor(do_resise=True),
        lambda: ViTImageProcessor()(IMAGE, do_resise=True),
        lambda: ViTImageProcessor.from_dict({}, do_resise=True),
    ):
        with pytest.raises(TypeError, match=r"no setting 'do_resise'; did you mean 'do_resize' or 'do_rescale'\?$"):
            call()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_files_match_transformers_and_load_in_both(hf: ModuleType, settings: dict[str, Any], tmp_path: Path) -> None:
    reference, ours = hf.ViTImageProcessorPil(**settings), ViTImageProcessor(**settings)
    # Version 4 cannot open short sides and crops under the name of the ViT's processor.
    name = "BitImageProcessor" if "crop_size" in settings else "ViTImageProcessor"
    assert ours.to_json_string() == reference.to_json_string().replace("ViTImageProcessor", name)
    assert ours.save_pretrained(tmp_path) == [str(tmp_path / "preprocessor_config.json")]
    again = hf.ViTImageProcessorPil.from_pretrained(tmp_path)
    assert np.array_equal(values(again(IMAGE)), values(ours(IMAGE)))
    reference.save_pretrained(tmp_path / "hf")
    loaded = ViTImageProcessor.from_pretrained(tmp_path / "hf")
    assert loaded.to_dict() == ours.to_dict()
    assert ours.size == reference.size
    assert ours.size == dict(ours.size)


FILES: dict[str, dict[str, Any]] = {
    "extractor": {"feature_extractor_type": "ViTFeatureExtractor", "size": 40, "resample": 2, "do_normalize": True},
    "renamed": {"image_processor_type": "ViTFeatureExtractor", "size": 40, "image_mean": [0.5] * 3},
    "slow": {"image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 40}, "do_convert_rgb": None},
    "fast": {
        "image_processor_type": "ViTImageProcessorFast",
        "size": {"height": 40, "width": 40},
        "crop_size": None,
        "do_center_crop": None,
        "device": None,
        "return_tensors": None,
        "data_format": "channels_first",
        "input_data_format": None,
        "_valid_processor_keys": ["images"],
    },
    "nested": {"image_processor": {"image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 40}}},
}


@pytest.mark.parametrize("version", FILES)
def test_files_of_every_version_load(version: str, tmp_path: Path) -> None:
    name = "processor_config.json" if version == "nested" else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(FILES[version]))
    processor = ViTImageProcessor.from_pretrained(tmp_path, use_fast=True)
    assert processor.size == {"height": 40, "width": 40}
    assert processor.size.height == 40
    assert np.array_equal(values(processor(IMAGE)), values(ViTImageProcessor(size=40)(IMAGE)))
    changed, unused = ViTImageProcessor.from_pretrained(tmp_path, size=20, unknown=1, return_unused_kwargs=True)
    assert (changed.size, unused) == ({"height": 20, "width": 20}, {"unknown": 1})
    assert ViTImageProcessor.from_json_file(tmp_path / name).size == processor.size


def test_unsupported_steps_raise(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"do_flip_channel_order": true, "size": 32}')
    with pytest.raises(
        ValueError, match=re.escape("steps that ViTImageProcessor does not support: do_flip_channel_order")
    ):
        ViTImageProcessor.from_pretrained(tmp_path)


def test_old_names_are_the_same_class() -> None:
    assert ViTImageProcessorFast is ViTImageProcessorPil is ViTFeatureExtractor
    assert ViTFeatureExtractor is ViTImageProcessor
    assert ViTFeatureExtractor().backend == "pil"
    assert ViTFeatureExtractor(True, 32, 3).resample == 3
    assert ViTFeatureExtractor().model_input_names == ["pixel_values"]
