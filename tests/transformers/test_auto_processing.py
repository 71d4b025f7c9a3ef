"""`AutoImageProcessor` and `AutoFeatureExtractor` for files of every family, and for checkpoints of other projects."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit import ViTConfig, ViTForImageClassification, checkpoints, models
from vitkit.checkpoints import preprocessing
from vitkit.transformers import image_processors
from vitkit.transformers.auto_processing import FAMILIES, AutoFeatureExtractor, AutoImageProcessor
from vitkit.transformers.image_processing import ViTImageProcessor

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 451, 3), dtype=np.uint8))
# The preprocessor_config.json of microsoft/resnet-50.
RESNET = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}


def write(folder: Path, preprocessor: dict[str, Any] | None, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in (("preprocessor_config.json", preprocessor), ("config.json", config)):
        if data is not None:
            (folder / name).write_text(json.dumps(data))
    return folder


def pixels(processor: Any) -> np.ndarray:
    return np.asarray(processor(IMAGE)["pixel_values"][0])


@pytest.mark.parametrize("auto", [AutoImageProcessor, AutoFeatureExtractor])
def test_resnet_50_resizes_the_short_side_to_256_and_crops_224(hf: ModuleType, auto: Any, tmp_path: Path) -> None:
    write(tmp_path, RESNET, {"model_type": "resnet"})
    processor = auto.from_pretrained(tmp_path)
    assert isinstance(processor, image_processors.ConvNextImageProcessor)
    assert isinstance(processor, image_processors.ConvNextFeatureExtractor) == (auto is AutoFeatureExtractor)
    reference = hf.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert np.array_equal(pixels(processor), pixels(reference))
    # The class of another family keeps the pixels that the file describes.
    assert np.array_equal(pixels(ViTImageProcessor.from_pretrained(tmp_path)), pixels(reference))
    larger = auto.from_pretrained(tmp_path, size={"shortest_edge": 384}, use_fast=True)
    expected = hf.AutoImageProcessor.from_pretrained(tmp_path, size={"shortest_edge": 384}, backend="pil")
    assert pixels(larger).shape == (3, 384, 384)
    assert np.array_equal(pixels(larger), pixels(expected))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_class_is_found_by_name_or_model_type(hf: ModuleType, model_type: str, tmp_path: Path) -> None:
    table = hf.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES
    # Missing in transformers; its published folders name the processor of DINOv2.
    named = table["dinov2" if model_type == "dinov2_with_registers" else model_type]
    name = (named.get("pil") or named["torchvision"]).removesuffix("Pil")
    ours = getattr(image_processors, name)
    for data, config in (
        ({"image_processor_type": name}, None),
        ({"image_processor_type": f"{name}Fast"}, {"model_type": "other"}),
        ({"feature_extractor_type": name.replace("ImageProcessor", "FeatureExtractor")}, None),
        ({"image_processor": {"image_processor_type": name}, "processor_class": "X"}, None),
        ({"do_resize": True}, {"model_type": model_type}),
        ({"do_resize": True}, {"image_processor_type": name}),
    ):
        folder = write(tmp_path / "model", data, config)
        assert type(AutoImageProcessor.from_pretrained(folder)) is ours
        assert isinstance(AutoFeatureExtractor.from_pretrained(folder), ours)
        (folder / "config.json").unlink(missing_ok=True)
    config = ViTConfig()
    found, unused = AutoImageProcessor.from_pretrained(
        write(tmp_path / "model", {"do_resize": True}), config=config, size=30, other=1, return_unused_kwargs=True
    )
    assert (type(found), found.size, unused) == (ViTImageProcessor, {"height": 30, "width": 30}, {"other": 1})


def small(family: str = "vit", **changes: Any) -> checkpoints.Checkpoint:
    torch.manual_seed(0)
    config = models.vit.Config(
        image_size=(32, 32), patch_size=(8, 8), width=32, depth=1, num_heads=2, mlp_width=64, num_classes=3, **changes
    )
    processor = preprocessing.meta(config, 0.9)
    return checkpoints.Checkpoint(model=models.build(config).eval(), processor=processor, labels=("a", "b", "c"))


@pytest.mark.parametrize("to", ["timm", "npz", "vitkit"])
def test_other_checkpoints_have_the_processor_of_load(hf: ModuleType, to: str, tmp_path: Path) -> None:
    target = tmp_path / ("model.npz" if to == "npz" else "model")
    checkpoints.save_checked(small(activation="gelu_tanh"), target, to=to, lossy=to == "npz")
    expected = vitkit.load(target).processor
    for auto in (AutoImageProcessor, AutoFeatureExtractor):
        processor = auto.from_pretrained(str(target))
        assert np.array_equal(pixels(processor), expected.array(IMAGE))
    processor.save_pretrained(tmp_path / "again")
    reference = hf.AutoImageProcessor.from_pretrained(tmp_path / "again", backend="pil")
    assert np.array_equal(pixels(AutoImageProcessor.from_pretrained(tmp_path / "again")), pixels(reference))
    assert AutoImageProcessor.from_pretrained(target, do_normalize=False).do_normalize is False


def test_converted_folders_have_the_pixels_of_transformers(hf: ModuleType, tmp_path: Path) -> None:
    """The checkpoint crops with the rounding of torchvision, which differs from that of transformers by one pixel."""
    checkpoints.save(small(), tmp_path / "model", to="huggingface")
    reference = hf.AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    for processor_class in (AutoImageProcessor, AutoFeatureExtractor, ViTImageProcessor):
        processor = processor_class.from_pretrained(tmp_path / "model")
        assert np.array_equal(pixels(processor), pixels(reference))
    original = vitkit.load(tmp_path / "model").processor
    assert original.center_crop == "torchvision"
    assert not np.array_equal(original.array(IMAGE), pixels(reference))


def test_subfolders_and_single_files(tmp_path: Path) -> None:
    checkpoints.save(small(), tmp_path / "runs" / "best", to="timm")
    expected = vitkit.load(tmp_path / "runs" / "best").processor.array(IMAGE)
    assert np.array_equal(pixels(AutoImageProcessor.from_pretrained(tmp_path / "runs", subfolder="best")), expected)
    file = write(tmp_path / "file", RESNET) / "preprocessor_config.json"
    assert isinstance(AutoImageProcessor.from_pretrained(file), image_processors.ConvNextImageProcessor)


def test_errors_are_those_of_transformers(hf: ModuleType, tmp_path: Path) -> None:
    for auto in (AutoImageProcessor, AutoFeatureExtractor):
        with pytest.raises(OSError, match=f"{auto.__name__} is designed to be instantiated using the `{auto.__name__}"):
            auto()
    owl = write(tmp_path / "owl", {"image_processor_type": "OwlViTImageProcessor"}, {"model_type": "owlvit"})
    with pytest.raises(
        ValueError, match=r"Unrecognized image processor in .*owl: 'OwlViTImageProcessor'\. Should have"
    ):
        AutoImageProcessor.from_pretrained(owl)
    nothing = write(tmp_path / "nothing", {"do_resize": True}, {"model_type": "bert\x1b[31m"})
    for auto in (AutoImageProcessor, hf.AutoImageProcessor):
        with pytest.raises(ValueError, match=r"Unrecognized image processor in .*model_type") as caught:
            auto.from_pretrained(nothing)
    assert len(str(caught.value)) > 100
    with pytest.raises(ValueError, match="Unrecognized feature extractor") as caught:
        AutoFeatureExtractor.from_pretrained(nothing)
    assert "\x1b" not in str(caught.value)
    empty = write(tmp_path / "empty", None)
    for auto in (AutoImageProcessor, hf.AutoImageProcessor):
        with pytest.raises(OSError, match=r"preprocessor_config\.json"):
            auto.from_pretrained(empty)
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    ViTForImageClassification(config).save_pretrained(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json: .*such as ViTImageProcessor\(\)"):
        AutoImageProcessor.from_pretrained(tmp_path / "m")
    with pytest.raises(TypeError, match="ViTImageProcessor has no setting 'sise'; did you mean 'size'"):
        AutoImageProcessor.from_pretrained(write(tmp_path / "v", {"image_processor_type": "ViTImageProcessor"}), sise=3)
