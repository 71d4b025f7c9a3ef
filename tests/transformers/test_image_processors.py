"""The image processors of all families compared with transformers: pixels, files, arguments, images of 4 channels."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.transformers import image_processors
from vitkit.transformers.image_processing import BaseImageProcessor, ViTImageProcessor
from vitkit.transformers.image_processors import BeitFeatureExtractor, BeitImageProcessor, ConvNextFeatureExtractor

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (61, 83, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
FAMILIES = ("ViT", "DeiT", "Beit", "Bit", "ConvNext")
SIDES = {"height": 40, "width": 32}
CROP = {"do_center_crop": True, "crop_size": {"height": 30, "width": 28}}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("ViT", {"do_resize": None}),
    ("ViT", {"do_rescale": None, "do_normalize": None}),
    ("ViT", {"image_mean": 0.2, "image_std": 0.4}),
    ("ViT", {"size": {"shortest_edge": 32}, **CROP}),
    ("ViT", {"size": SIDES, **CROP}),
    ("DeiT", {"size": SIDES, "crop_size": 24, "image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}),
    ("DeiT", {"do_center_crop": False}),
    ("DeiT", {"do_center_crop": None, "do_normalize": None}),
    ("DeiT", {"size": {"shortest_edge": 32}}),
    ("Beit", {"size": 40, **CROP}),
    ("Bit", {"size": 32}),
    ("Bit", {"size": SIDES, **CROP}),
    ("Bit", {"do_resize": False}),
    ("Bit", {"do_center_crop": False, "size": {"shortest_edge": 20}}),
    ("ConvNext", {"size": 40}),
    ("ConvNext", {"size": {"shortest_edge": 40}, "crop_pct": 0.7, "resample": 2}),
    ("ConvNext", {"size": 383}),
    ("ConvNext", {"do_resize": False}),
]


def make(family: str, settings: dict[str, Any]) -> BaseImageProcessor:
    return getattr(image_processors, f"{family}ImageProcessor")(**settings)


def pixels(processor: Any, image: Any = IMAGE, **options: Any) -> np.ndarray:
    return np.asarray(processor(image, **options)["pixel_values"][0])


@pytest.mark.parametrize(("family", "settings"), SETTINGS, ids=str)
def test_pixels_and_files_equal_transformers_5(
    hf: ModuleType, family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    reference, ours = getattr(hf, f"{family}ImageProcessorPil")(**settings), make(family, settings)
    assert np.array_equal(pixels(ours), pixels(reference))
    assert np.array_equal(pixels(make(family, {}), **settings), pixels(reference)) or None in settings.values()
    expected, given = json.loads(reference.to_json_string()), json.loads(ours.to_json_string())
    # Where version 4 could not open the file, or would process images differently, another class is named.
    changed = (family == "ViT" and "crop_size" in settings) or (family == "DeiT" and "shortest_edge" in str(settings))
    assert given.pop("image_processor_type") == ("BitImageProcessor" if changed else f"{family}ImageProcessor")
    expected.pop("image_processor_type")
    assert given == expected
    ours.save_pretrained(tmp_path)
    assert np.array_equal(pixels(type(ours).from_pretrained(tmp_path)), pixels(ours))
    opened = hf.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert np.array_equal(pixels(opened), pixels(ours))


@pytest.mark.slow
def test_files_open_in_transformers_4_with_equal_pixels(tmp_path: Path) -> None:
    packages = os.environ.get("VITKIT_TRANSFORMERS4")
    if not packages or not Path(packages).is_dir():
        pytest.skip("needs transformers 4: run scripts/transformers4.py FOLDER and set VITKIT_TRANSFORMERS4=FOLDER")
    IMAGE.save(tmp_path / "image.png")
    expected: dict[str, np.ndarray] = {}
    for index, (family, settings) in enumerate(SETTINGS):
        processor = make(family, settings)
        processor.save_pretrained(tmp_path / f"{index:02}")
        expected[f"{index:02}"] = pixels(processor)
    written = [
        Processor.squash(32),
        Processor.crop(32, 0.9, center_crop="huggingface"),
        Processor(size=(32, 32), resize_to=40, center_crop="huggingface", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        Processor(resize="none"),
    ]
    for index, each in enumerate(written):
        (tmp_path / f"p{index}").mkdir()
        (tmp_path / f"p{index}" / "preprocessor_config.json").write_text(json.dumps(each.to_huggingface()))
        expected[f"p{index}"] = each.array(IMAGE)
    run = [sys.executable, str(Path(__file__).with_name("oracle_processors4.py")), str(tmp_path)]
    path = os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(expected) == len(SETTINGS) + 4
    for name, array in expected.items():
        given = np.load(tmp_path / name / "out.npy")
        assert np.array_equal(given, array), (name, SETTINGS[int(name)] if name.isdecimal() else name)
        saved = json.loads((tmp_path / name / "again" / "preprocessor_config.json").read_text())
        family = saved["image_processor_type"].removesuffix("ImageProcessor")
        again = getattr(image_processors, f"{family}ImageProcessor").from_pretrained(tmp_path / name / "again")
        assert np.array_equal(pixels(again), array), name


def test_feature_extractors_have_the_defaults_of_transformers_4() -> None:
    assert ConvNextFeatureExtractor().resample == 2
    extractor = BeitFeatureExtractor()
    assert (extractor.size, extractor.do_center_crop) == ({"height": 256, "width": 256}, True)
    assert pixels(extractor).shape == (3, 224, 224)
    assert image_processors.DeiTFeatureExtractor is image_processors.DeiTImageProcessor


def test_positional_arguments_are_those_of_transformers_4() -> None:
    assert image_processors.DeiTImageProcessor(True, 40, 2, True, 30, 0.5, False).rescale_factor == 0.5
    assert image_processors.BitImageProcessor(True, 40, 2, True, 30, False, 0.5).do_rescale is False
    convnext = image_processors.ConvNextImageProcessor(True, 40, 0.8, 2)
    assert (convnext.crop_pct, convnext.size.shortest_edge, convnext.size.height) == (0.8, 40, None)
    assert pixels(convnext, IMAGE).shape == (3, 40, 40)
    assert np.asarray(convnext(IMAGE, True, 30, 0.9).pixel_values).shape == (1, 3, 30, 30)
    with pytest.raises(TypeError, match=r"DeiTImageProcessor takes 10 positional arguments \(do_resize, size, "):
        image_processors.DeiTImageProcessor(*range(11))
    with pytest.raises(TypeError, match=r"ViTImageProcessor has no setting 'crop_pct'"):
        ViTImageProcessor(crop_pct=0.9)
    with pytest.raises(AttributeError, match="a size has no 'heigth'; its sides are height, width, shortest_edge"):
        _ = convnext.size.heigth


FOUR = RANDOM.integers(0, 256, (40, 50, 4), dtype=np.uint8)


@pytest.mark.parametrize("size", [20, 40, {"shortest_edge": 24}])
@pytest.mark.parametrize(("mean", "std"), [([0.1, 0.2, 0.3, 0.4], [1.0, 0.5, 1.0, 0.5]), (0, 1), (0.5, 0.5)])
def test_images_of_four_channels_equal_transformers(hf: ModuleType, size: Any, mean: Any, std: Any) -> None:
    settings = {"size": size, "image_mean": mean, "image_std": std}
    reference, ours = hf.ViTImageProcessorPil(**settings), ViTImageProcessor(**settings)
    first = FOUR.transpose(2, 0, 1)
    for image in (FOUR, first, torch.from_numpy(first.copy()), Image.fromarray(FOUR)):
        assert np.array_equal(pixels(ours, image), pixels(reference, image))
    batch = np.stack([FOUR, FOUR[::-1]])
    expected = reference(batch, return_tensors="np")["pixel_values"]
    assert np.array_equal(ours(batch, return_tensors="np").pixel_values, expected)
    if isinstance(mean, int):  # a call of transformers 5 takes floats only
        mean, std = float(mean), float(std)
    last = {"input_data_format": "channels_last", "return_tensors": "np", "image_mean": mean, "image_std": std}
    assert np.array_equal(
        ViTImageProcessor(size=size)(FOUR, **last).pixel_values,
        hf.ViTImageProcessorPil(size=size)(FOUR, **last)["pixel_values"],
    )


def test_a_single_mean_keeps_the_channels_of_the_image(hf: ModuleType) -> None:
    settings = {"size": 20, "image_mean": 0.0, "image_std": 1.0}
    reference, ours = hf.ViTImageProcessorPil(**settings), ViTImageProcessor(**settings)
    gray = IMAGE.convert("L")
    for image in (gray, np.asarray(gray)[None], IMAGE, PIXELS):
        assert np.array_equal(pixels(ours, image), pixels(reference, image))
    unchanged = settings | {"do_resize": False}
    for image in (FOUR, FOUR.astype(np.float32)):
        got = pixels(ViTImageProcessor(**unchanged), image)
        assert np.array_equal(got, pixels(hf.ViTImageProcessorPil(**unchanged), image))
    assert (
        pixels(ours, RANDOM.integers(0, 256, (9, 9, 5), dtype=np.uint8), input_data_format="channels_last").shape[0]
        == 5
    )
    assert pixels(ours, IMAGE.convert("P")).shape[0] == 3
    assert pixels(ours, Image.fromarray(FOUR), do_convert_rgb=True).shape[0] == 3
    with pytest.raises(ValueError, match="4 channels first or last are expected"):
        ViTImageProcessor(image_mean=[0.5] * 4, image_std=[0.5] * 4)(PIXELS)


@pytest.mark.parametrize("reduce", [False, True])
def test_segmentation_maps_equal_transformers(hf: ModuleType, reduce: bool) -> None:
    maps = RANDOM.integers(0, 5, (61, 83), dtype=np.uint8)
    settings = {"size": 32, "do_reduce_labels": reduce}
    reference, ours = hf.BeitImageProcessorPil(**settings), BeitImageProcessor(**settings)
    for given in (Image.fromarray(maps), maps, torch.from_numpy(maps)):
        expected = reference(IMAGE, segmentation_maps=Image.fromarray(maps), return_tensors="pt")
        batch = ours(IMAGE, given, return_tensors="pt")
        assert batch["labels"].dtype is torch.int64
        assert torch.equal(batch["labels"], expected["labels"])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
    with pytest.raises(ValueError, match=r"integers from 0 to 255, got float32 of shape \(61, 83\)"):
        ours(IMAGE, maps.astype(np.float32))


def test_dinov3_is_near_the_floating_point_resize_of_transformers(hf: ModuleType) -> None:
    pytest.importorskip("torchvision", reason="the only class of transformers needs torchvision")
    reference, ours = hf.DINOv3ViTImageProcessor(size=32), image_processors.DINOv3ViTImageProcessor(size=32)
    assert json.loads(ours.to_json_string()) == json.loads(reference.to_json_string())
    assert np.abs(pixels(ours) - pixels(reference)).max() < 1.5 / 255 / min(IMAGENET_STD)


def test_single_steps_equal_transformers(hf: ModuleType) -> None:
    size_dict = hf.image_utils.SizeDict
    first, floats = PIXELS.transpose(2, 0, 1), (PIXELS.transpose(2, 0, 1) / 255).astype(np.float32)
    for family in FAMILIES:
        reference, ours = getattr(hf, f"{family}ImageProcessorPil")(), make(family, {})
        edge = {"shortest_edge": 40} if family in ("Bit", "ConvNext") else SIDES
        for image in (first, floats, FOUR.transpose(2, 0, 1)):
            got, expected = ours.resize(image, edge, 3), reference.resize(image, size_dict(**edge), 3)
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(got, expected, atol=1e-7)
            assert np.array_equal(ours.rescale(image, 1 / 255), reference.rescale(image, 1 / 255))
            for crop in (SIDES, {"height": 99, "width": 30}, {"height": 30, "width": 98}):
                got, expected = ours.center_crop(image, crop), reference.center_crop(image, size_dict(**crop))
                assert np.array_equal(got, expected)
            channels = image.shape[0]
            for mean, std in ((0.5, 0.2), ([0.1, 0.2, 0.3, 0.4][:channels], [0.5, 0.6, 0.7, 0.8][:channels])):
                assert np.array_equal(ours.normalize(image, mean, std), reference.normalize(image, mean, std))
    last = ours.resize(PIXELS, 40, 2, crop_pct=0.5)
    assert last.shape == (40, 40, 3)
    assert np.array_equal(ours.resize(torch.from_numpy(first.copy()), 40, 2, "channels_last", crop_pct=0.5), last)
    assert ours.rescale(PIXELS, 0.5, "channels_first").shape == first.shape
    with pytest.raises(ValueError, match="mean must have 3 elements if it is an iterable, got 2"):
        ours.normalize(first, [0.1, 0.2], 1.0)
    with pytest.raises(ValueError, match="must have keys 'height' and 'width'"):
        ours.center_crop(first, {"shortest_edge": 3})
    with pytest.raises(ValueError, match="expected three dimensions"):
        ours.rescale(first[0], 2.0)
