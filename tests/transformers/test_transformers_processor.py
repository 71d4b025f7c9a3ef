"""The image processor beside transformers' PIL one, bit for bit, and what it takes that theirs does not."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import ImageError, ViTFeatureExtractor, ViTImageProcessor, ViTImageProcessorFast, ViTImageProcessorPil
from vitkit.images import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (41, 52, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
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
def test_bits_are_theirs_for_every_setting(theirs: ModuleType, settings: dict[str, Any]) -> None:
    images = [PHOTO, PIXELS, PIXELS.transpose(2, 0, 1), torch.from_numpy(PIXELS).permute(2, 0, 1)]
    expected = theirs.ViTImageProcessorPil(**settings)(images, return_tensors="np")
    got = ViTImageProcessor(**settings)(images, return_tensors="np")
    assert got.pixel_values.dtype == expected["pixel_values"].dtype
    assert np.array_equal(got.pixel_values, expected["pixel_values"])
    per_call = ViTImageProcessor()(images, return_tensors="np", **settings)
    assert np.array_equal(per_call.pixel_values, expected["pixel_values"])


def test_bits_are_theirs_for_photos(theirs: ModuleType, shared: Path) -> None:
    photos = sorted((shared / "data" / "imagenet_sample").glob("*.JPEG"))[::6]
    assert len(photos) >= 30
    reference, ours = theirs.ViTImageProcessorPil(), ViTImageProcessor()
    for path in photos:
        with Image.open(path) as photo:
            expected = reference(photo.convert("RGB"), return_tensors="np")["pixel_values"]
        assert np.array_equal(values(ours(path)), expected), path.name


@pytest.mark.slow
def test_bits_are_theirs_for_every_photo(theirs: ModuleType, shared: Path) -> None:
    reference, ours = theirs.ViTImageProcessorPil(), ViTImageProcessor()
    for path in sorted((shared / "data" / "imagenet_sample").glob("*.JPEG")):
        with Image.open(path) as photo:
            expected = reference(photo.convert("RGB"), return_tensors="np")["pixel_values"]
        assert np.array_equal(values(ours(path)), expected), path.name


def test_odd_files_are_the_picture_that_opens_or_an_error(theirs: ModuleType, shared: Path) -> None:
    """What opens is upright RGB; theirs is given that picture, ours the file."""
    reference, ours, opened = theirs.ViTImageProcessorPil(), ViTImageProcessor(), 0
    for path in sorted((shared / "data" / "odd_images").iterdir()):
        try:
            picture = open_image(path, profile="ignore")
        except ImageError:
            with pytest.raises(ImageError):
                ours(path)
            continue
        opened += 1
        expected = reference(picture.convert("RGB"), return_tensors="np", input_data_format="channels_last")
        assert np.array_equal(values(ours(path)), expected["pixel_values"]), path.name
    assert opened > 80


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_every_mode_of_pillow_makes_a_picture(mode: str) -> None:
    grey = PHOTO.convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
    elif mode == "LAB":
        image = Image.merge("LAB", PHOTO.split())
    elif mode == "PA":
        image = PHOTO.convert("P").convert("PA")
    else:
        image = PHOTO.convert(mode)
    array = values(ViTImageProcessor()(image))
    assert array.shape == (1, 3, 224, 224)
    assert array.dtype == np.float32
    if mode in ("L", "I", "F", "I;16", "LA"):
        assert np.array_equal(array, values(ViTImageProcessor()(grey.convert("RGB"))))
    assert array.std() > 0.1


def test_transparent_pixels_show_white_and_grey_models_get_one_channel() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert np.array_equal(values(ViTImageProcessor()(clear)), np.ones((1, 3, 224, 224), np.float32))
    grey = ViTImageProcessor(image_mean=[0.5], image_std=[0.5])
    assert values(grey(PHOTO)).shape == (1, 1, 224, 224)


def test_floats_of_0_to_1_are_recognised(theirs: ModuleType) -> None:
    floats = (PIXELS / 255).astype(np.float32)
    ours = ViTImageProcessor()
    expected = values(ours(PHOTO))
    for image in (floats, torch.from_numpy(floats), PIXELS.astype(np.float32), PIXELS.astype(np.int64)):
        assert np.array_equal(values(ours(image)), expected)
    assert values(theirs.ViTImageProcessorPil()(floats, return_tensors="np")).max() < -0.98, "theirs turns it black"
    reference = theirs.ViTImageProcessorPil(do_rescale=False)
    assert np.array_equal(values(ViTImageProcessor(do_rescale=False)(floats)), values(reference(floats)))
    assert np.array_equal(values(ours(floats, do_rescale=False)), expected), "it was rescaled by the caller, once"
    exact = ours(floats, do_resize=False, return_tensors="np").pixel_values
    np.testing.assert_allclose(exact[0], floats.transpose(2, 0, 1) * 2 - 1, atol=1e-6)
    unrounded = values(theirs.ViTImageProcessorPil(do_resize=False, do_rescale=False)(floats, return_tensors="np"))
    assert np.array_equal(values(ours(floats, do_resize=False, do_rescale=False)), unrounded)
    with pytest.raises(ValueError, match="pass the image before it is normalised"):
        ours(floats * 4 - 2)


def test_lists_batches_and_layouts() -> None:
    ours = ViTImageProcessor()
    one = values(ours(PHOTO))[0]
    for images, count in (
        ([PHOTO, PHOTO], 2),
        ([[PHOTO], [PHOTO, PIXELS]], 3),
        (np.stack([PIXELS, PIXELS]), 2),
        (torch.from_numpy(PIXELS).permute(2, 0, 1)[None], 1),
        ((PHOTO,), 1),
    ):
        arrays = ours(images)["pixel_values"]
        assert isinstance(arrays, list)
        assert len(arrays) == count
        assert all(np.array_equal(array, one) for array in arrays)
    last = ours(PHOTO, data_format="channels_last").pixel_values[0]
    assert np.array_equal(last.transpose(2, 0, 1), one)
    thin = np.zeros((3, 50, 3), np.uint8)
    thin[0] = 255
    first = values(ours(thin, input_data_format="channels_first", do_resize=False))
    assert first.shape == (1, 3, 50, 3)
    assert first[0, 0].min() == 1
    assert values(ours(PIXELS[..., 0])).shape == (1, 3, 224, 224)
    padded = ours([PHOTO, PHOTO.crop((0, 0, 20, 30))], do_resize=False, do_pad=True, return_tensors="np").pixel_values
    assert padded.shape == (2, 3, 41, 52)
    assert (padded[1, :, 30:] == 0).all()
    with pytest.raises(ValueError, match="different shapes: use return_tensors=None"):
        ours([PHOTO, PHOTO.crop((0, 0, 20, 30))], do_resize=False, return_tensors="pt")
    with pytest.raises(ValueError, match="data_format is 'sideways'"):
        ours(PHOTO, data_format="sideways")


def test_kinds_of_arrays_in_and_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ViTImageProcessor()
    expected = values(ours(PHOTO))
    assert isinstance(ours(PHOTO, return_tensors="np").pixel_values, np.ndarray)
    batch = ours(images=PHOTO, return_tensors="pt")
    assert batch["pixel_values"] is batch.pixel_values
    assert isinstance(batch.pixel_values, torch.Tensor)
    assert dict(**batch).keys() == {"pixel_values"}
    assert batch.to(torch.bfloat16).pixel_values.dtype is torch.bfloat16
    assert batch.to("cpu").pixel_values.device.type == "cpu"
    jnp = pytest.importorskip("jax.numpy", reason="pip install 'vitkit[jax]'")
    array = ours(jnp.asarray(PIXELS), return_tensors="jax").pixel_values
    assert type(array).__module__.startswith("jax")
    assert np.array_equal(np.asarray(array), expected)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match='return_tensors="tf" needs TensorFlow: pip install tensorflow'):
        ours(PHOTO, return_tensors="tf")
    with pytest.raises(ValueError, match="unknown return_tensors 'mx'; there is 'pt', 'np', 'jax', 'tf' and None"):
        ours(PHOTO, return_tensors="mx")


def test_settings_nobody_knows_are_refused_by_name() -> None:
    for call in (
        lambda: ViTImageProcessor(do_resise=True),
        lambda: ViTImageProcessor()(PHOTO, do_resise=True),
        lambda: ViTImageProcessor.from_dict({}, do_resise=True),
    ):
        with pytest.raises(
            TypeError, match=r"no setting 'do_resise'; did you mean 'do_resize'.* \(all: do_resize, size, "
        ):
            call()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_files_are_theirs_and_open_in_both(theirs: ModuleType, settings: dict[str, Any], tmp_path: Path) -> None:
    reference, ours = theirs.ViTImageProcessorPil(**settings), ViTImageProcessor(**settings)
    assert ours.to_json_string() == reference.to_json_string()
    assert ours.save_pretrained(tmp_path) == [str(tmp_path / "preprocessor_config.json")]
    again = theirs.ViTImageProcessorPil.from_pretrained(tmp_path)
    assert np.array_equal(values(again(PHOTO)), values(ours(PHOTO)))
    reference.save_pretrained(tmp_path / "theirs")
    loaded = ViTImageProcessor.from_pretrained(tmp_path / "theirs")
    assert loaded.to_dict() == ours.to_dict()
    assert ours.size == reference.size
    assert ours.size == dict(ours.size)


GENERATIONS: dict[str, dict[str, Any]] = {
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


@pytest.mark.parametrize("generation", GENERATIONS)
def test_files_of_every_generation_open(generation: str, tmp_path: Path) -> None:
    name = "processor_config.json" if generation == "nested" else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps(GENERATIONS[generation]))
    processor = ViTImageProcessor.from_pretrained(tmp_path, use_fast=True)
    assert processor.size == {"height": 40, "width": 40}
    assert processor.size.height == 40
    assert np.array_equal(values(processor(PHOTO)), values(ViTImageProcessor(size=40)(PHOTO)))
    changed, unused = ViTImageProcessor.from_pretrained(tmp_path, size=20, nobody=1, return_unused_kwargs=True)
    assert (changed.size, unused) == ({"height": 20, "width": 20}, {"nobody": 1})
    assert ViTImageProcessor.from_json_file(tmp_path / name).size == processor.size


def test_a_step_that_is_not_done_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"do_flip_channel_order": true, "size": 32}')
    with pytest.raises(
        ValueError, match=re.escape("steps that a ViT's processor does not take: do_flip_channel_order")
    ):
        ViTImageProcessor.from_pretrained(tmp_path)


def test_older_names_are_the_same_class() -> None:
    assert ViTImageProcessorFast is ViTImageProcessorPil is ViTFeatureExtractor
    assert ViTFeatureExtractor is ViTImageProcessor
    assert ViTFeatureExtractor().backend == "pil"
    assert ViTFeatureExtractor(True, 32, 3).resample == 3
    assert ViTFeatureExtractor().model_input_names == ["pixel_values"]
