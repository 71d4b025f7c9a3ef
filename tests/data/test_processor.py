"""`Processor` against transformers' PIL processor and timm's eval transform, bit for bit, and all kinds of input."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import oracle
from PIL import Image

from vitkit.config import from_dict, to_dict
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.data.processor.geometry import crop_start, resize_and_crop, resized_size
from vitkit.images import ImageError

#: Odd and even, portrait and landscape, smaller and larger than any target, equal to it, and lines.
SIZES = [
    (224, 224), (256, 256), (225, 224), (300, 451), (451, 300), (500, 375), (375, 500), (101, 640), (640, 101),
    (33, 57), (57, 33), (223, 249), (248, 248), (249, 333), (1, 1), (7, 300), (96, 96), (97, 96), (512, 341),
]  # fmt: skip


def make_image(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Return an image with smooth shapes, edges and noise."""
    generator = np.random.default_rng(seed + 1000 * height + width)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (5 + 9 * c) + y / (17 - 4 * c) + c) * 70 + 127 for c in range(3)]
    pixels = np.stack(waves, axis=-1) + generator.normal(0, 25, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 :] = (250, 3, 128)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def transformers_processor(name: str = "ViTImageProcessorPil") -> Any:
    """One of transformers' classes; skips where transformers is not installed."""
    return getattr(oracle("transformers"), name)


def huggingface(image: Image.Image, name: str = "ViTImageProcessorPil", **settings: object) -> np.ndarray:
    return transformers_processor(name)(**settings)(image, return_tensors="np")["pixel_values"][0]


def timm_transform(cfg: dict) -> Any:
    """timm's transform for a pretrained_cfg; skips where timm is not installed."""
    timm_data = oracle("timm.data")
    return timm_data.create_transform(**timm_data.resolve_data_config(pretrained_cfg=cfg))


HUGGINGFACE = [
    {},
    {"size": {"height": 384, "width": 384}, "resample": 3},
    {"size": {"height": 160, "width": 320}, "resample": 1, "image_mean": list(IMAGENET_MEAN)},
    {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "resample": 3},
    {"size": {"shortest_edge": 97}, "do_center_crop": True, "crop_size": {"height": 96, "width": 96}, "resample": 5},
    {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 99, "width": 128}, "resample": 0},
    {"size": {"shortest_edge": 60}, "resample": 4},
    {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 75, "width": 75}},
    {"do_resize": False},
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
]


@pytest.mark.parametrize("config", HUGGINGFACE, ids=lambda config: json.dumps(config)[:60])
def test_equal_to_the_vit_processor_of_transformers(config: dict) -> None:
    processor = Processor.from_huggingface(config)
    for height, width in SIZES:
        image = make_image(height, width)
        expected = huggingface(image, **config).astype(np.float32)
        np.testing.assert_array_equal(processor.array(image), expected, err_msg=f"{height} x {width}")


def test_equal_to_the_deit_processor_of_transformers() -> None:
    processor = Processor.from_huggingface({"image_processor_type": "DeiTImageProcessor"})
    for height, width in SIZES:
        image = make_image(height, width)
        np.testing.assert_array_equal(processor.array(image), huggingface(image, "DeiTImageProcessorPil"))


@pytest.mark.parametrize("size", [97, 224, 383, 384])
def test_equal_to_the_convnext_processor_of_transformers(size: int) -> None:
    stated = {"size": {"shortest_edge": size}, "crop_pct": 0.9, "resample": 3}
    processor = Processor.from_huggingface({"image_processor_type": "ConvNextImageProcessor", **stated})
    for height, width in SIZES[::3]:
        image = make_image(height, width)
        np.testing.assert_array_equal(processor.array(image), huggingface(image, "ConvNextImageProcessorPil", **stated))


def test_the_resnet_50_of_the_hub_crops() -> None:
    """The preprocessor_config.json of microsoft/resnet-50."""
    config = {"crop_pct": 0.875, "do_normalize": True, "do_resize": True, "resample": 3, "size": 224}
    config |= {"feature_extractor_type": "ConvNextFeatureExtractor"}
    config |= {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    processor = Processor.from_huggingface(config)
    assert (processor.resize, processor.resize_to, processor.size) == ("shortest", 256, (224, 224))
    image = make_image(300, 451)
    np.testing.assert_array_equal(
        processor.array(image),
        transformers_processor("ConvNextImageProcessorPil").from_dict(config)(image)["pixel_values"][0],
    )


def test_steps_that_are_null_are_off() -> None:
    config = {"do_resize": None, "do_rescale": None, "do_normalize": None, "do_center_crop": None}
    processor = Processor.from_huggingface(config)
    assert (processor.resize, processor.rescale, processor.mean, processor.center_crop) == (
        "none", 1.0, (0.0,) * 3, "none"
    )  # fmt: skip


def test_files_name_a_class_that_transformers_4_can_use() -> None:
    for processor, name in (
        (Processor.squash(224), "ViTImageProcessor"),
        (Processor.crop(224), "BitImageProcessor"),
        (Processor(resize_to=256, center_crop="huggingface"), "BitImageProcessor"),
        (Processor(resize_to=256, center_crop="huggingface", mean=(0.5,), std=(0.5,)), "DeiTImageProcessor"),
        (Processor(resize="none"), "ViTImageProcessor"),
    ):
        assert processor.to_huggingface()["image_processor_type"] == name


TIMM = [
    {"crop_mode": "center"},
    {"crop_pct": 0.9, "mean": (0.5,) * 3, "std": (0.5,) * 3},
    {"crop_pct": 1.0, "input_size": (3, 96, 96)},
    {"crop_pct": 0.95, "input_size": (3, 97, 97), "interpolation": "bilinear"},
    {"crop_pct": 0.9, "input_size": (3, 96, 160)},
    {"crop_pct": 0.9, "crop_mode": "squash"},
    {"crop_pct": 0.8, "crop_mode": "squash", "input_size": (3, 95, 128), "interpolation": "lanczos"},
    {"crop_pct": 1.0, "crop_mode": "border", "input_size": (3, 65, 65)},
    {"crop_pct": 0.9, "crop_mode": "border", "input_size": (3, 96, 64)},
]


@pytest.mark.parametrize("cfg", TIMM, ids=lambda cfg: str(cfg)[:60])
def test_equal_to_the_eval_transform_of_timm(cfg: dict) -> None:
    transform = timm_transform(cfg)
    processor = Processor.from_timm(cfg)
    for height, width in SIZES:
        if cfg.get("crop_mode") == "border" and (height, width) in ((1, 1), (7, 300)):
            continue  # timm rounds a side to 0, or its rounding differs; see the next test
        image = make_image(height, width)
        np.testing.assert_array_equal(processor.array(image), transform(image).numpy(), err_msg=f"{height} x {width}")


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), target=st.integers(1, 90), ratio=st.floats(0.5, 1.0))
def test_equal_to_both_for_any_size(height: int, width: int, target: int, ratio: float) -> None:
    image = make_image(height, width)
    if target / ratio * max(height / width, width / height) < 4000:  # the oracles take minutes for such images
        cfg = {"input_size": (3, target, target), "crop_pct": ratio}
        expected = timm_transform(cfg)(image).numpy()
        np.testing.assert_array_equal(Processor.from_timm(cfg).array(image), expected)
        edge = int(target / ratio)
        config = {"size": {"shortest_edge": edge}, "do_center_crop": True, "resample": 3}
        config["crop_size"] = {"height": target, "width": target + 1}
        np.testing.assert_array_equal(Processor.from_huggingface(config).array(image), huggingface(image, **config))


def test_both_libraries_agree_for_squash() -> None:
    squash = {"size": {"height": 224, "width": 224}, "resample": 3}
    transform = oracle("timm.data").create_transform(
        input_size=(3, 224, 224),
        crop_mode="squash",
        crop_pct=1.0,
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    processor = Processor.squash(224, interpolation="bicubic")
    for height, width in SIZES:
        image = make_image(height, width)
        ours = processor.array(image)
        np.testing.assert_array_equal(ours, huggingface(image, **squash))
        np.testing.assert_array_equal(ours, transform(image).numpy())


def test_crop_rules_differ_only_for_odd_differences() -> None:
    for length in range(1, 60):
        for crop in range(1, 60):
            ours = [crop_start(length, crop, rule) for rule in ("torchvision", "huggingface")]
            assert abs(ours[0] - ours[1]) <= (length - crop) % 2


def test_a_line_is_cropped_without_a_large_intermediate_image() -> None:
    line = make_image(1, 20_000)
    array = Processor.crop(224, 0.9).array(line)
    assert array.shape == (3, 224, 224)
    with pytest.raises(ImageError) as caught:
        Processor(resize="shortest", resize_to=224).array(line)
    assert caught.value.code == "too_many_pixels"


def test_resizing_only_the_window_equals_resizing_the_full_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(40, 300)
    to = resized_size((40, 300), "shortest", 64)
    full = np.asarray(resize_and_crop(image, to, "bicubic", "torchvision", (56, 56), (0, 0, 0)), np.int16)
    monkeypatch.setattr("vitkit.data.processor.geometry.MAX_RESIZED", 1)
    window = np.asarray(resize_and_crop(image, to, "bicubic", "torchvision", (56, 56), (0, 0, 0)), np.int16)
    assert np.abs(full - window).max() <= 1


PROCESSORS = [
    Processor(),
    Processor.squash((160, 320), interpolation="lanczos"),
    Processor.crop(224),
    Processor.crop((96, 128), 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    Processor.crop(224, mean=(0.5,), std=(0.25,)),
    Processor(size=(224, 224), resize_to=256, center_crop="huggingface", interpolation="bicubic"),
    Processor(resize="longest", center_crop="torchvision", fill=(124, 116, 104)),
    Processor(resize="none", rescale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3),
    Processor(resize="shortest", resize_to=256, background=(0, 0, 0), profile="ignore"),
]


@pytest.mark.parametrize("processor", PROCESSORS, ids=str)
def test_round_trip_through_json(processor: Processor) -> None:
    assert Processor.from_huggingface(json.loads(json.dumps(processor.to_huggingface()))) == processor
    assert from_dict(Processor, json.loads(json.dumps(to_dict(processor)))) == processor


@pytest.mark.parametrize("processor", PROCESSORS, ids=str)
def test_transformers_reads_our_files(processor: Processor, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor.to_huggingface()))
    theirs = transformers_processor().from_pretrained(tmp_path)
    if not set(processor.to_huggingface().get("vitkit", {})) - {"profile", "background"} and processor.channels == 3:
        image = make_image(301, 222)
        np.testing.assert_array_equal(processor.array(image), theirs(image, return_tensors="np")["pixel_values"][0])


def test_only_settings_unknown_to_transformers_are_stored_as_ours() -> None:
    assert "vitkit" not in Processor.squash(224, profile="ignore").to_huggingface()
    assert "vitkit" not in Processor(resize_to=256, center_crop="huggingface", profile="ignore").to_huggingface()
    own = Processor.crop(224).to_huggingface()["vitkit"]
    assert own == {"center_crop": "torchvision", "profile": "convert"}


VERSIONS = {
    "a number for the size": {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "do_normalize": True,
        "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
    "slow, v4": {"do_convert_rgb": None, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5] * 3, "image_processor_type": "ViTImageProcessor", "image_std": [0.5] * 3, "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": 224, "width": 224}},
    "fast, v4, with nulls": {"crop_size": None, "data_format": "channels_first", "default_to_square": True,
        "device": None, "disable_grouping": None, "do_center_crop": None, "do_convert_rgb": None, "do_normalize": True,
        "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_processor_type": "ViTImageProcessorFast",
        "image_std": [0.5] * 3, "input_data_format": None, "resample": 2, "rescale_factor": 0.00392156862745098,
        "return_tensors": None, "size": {"height": 224, "width": 224}},
    "nested": {"processor_class": "X", "image_processor": {"image_processor_type": "ViTImageProcessor"}},
    "empty": {},
}  # fmt: skip


@pytest.mark.parametrize("config", VERSIONS.values(), ids=VERSIONS.keys())
def test_every_version_of_the_config_reads_the_same(config: dict) -> None:
    assert Processor.from_huggingface(config) == Processor.squash(224, profile="ignore")


def test_configs_written_by_transformers() -> None:
    test_every_version_of_the_config_reads_the_same(transformers_processor()().to_dict())


def test_old_configs_of_other_families() -> None:
    deit = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True}
    deit |= {"resample": 3, "image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    processor = Processor.from_huggingface(deit)
    assert (processor.resize, processor.resize_to, processor.size) == ("squash", (256, 256), (224, 224))
    clip = Processor.from_huggingface({"feature_extractor_type": "CLIPFeatureExtractor", "size": 256, "crop_size": 224})
    assert (clip.resize, clip.resize_to, clip.center_crop) == ("shortest", 256, "huggingface")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"resample": 9}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"size": {"longest_edge": 3}}, "longest_edge"),
        ({"size": {"shortest_edge": 3, "longest_edge": 9}}, "longest_edge"),
        ({"do_pad": True}, "do_pad"),
        ({"do_center_crop": True}, "crop_size"),
        ({"crop_pct": 0.9}, "crop_pct"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 1.5}, "crop_pct must be above 0 .* got 1.5"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 3, "width": 3}}, "'shortest_edge'"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 32, "do_center_crop": True, "crop_size": 16},
            "would be a second crop",
        ),
        ({"image_processor_type": "OwlImageProcessor"}, "Owl"),
        ({"vitkit": {"center_cop": "torchvision"}}, "center_cop"),
        ({"vitkit": {"center_crop": "opencv"}}, "opencv"),
        ({"image_std": [0.5, 0, 0.5]}, "std"),
    ],
)
def test_unsupported_settings_raise(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Processor.from_huggingface(config)


@pytest.mark.parametrize(
    "cfg", [{"crop_mode": "spiral"}, {"interpolation": "random"}, {"mean": (0.5, 0.5)}, {"num_classes": 10}]
)
def test_unsupported_timm_settings_raise(cfg: dict) -> None:
    with pytest.raises(ValueError, match=r"crop_mode|interpolation|channels|pretrained_cfg"):
        Processor.from_timm(cfg)


def test_timm_config_files_contain_their_pretrained_cfg() -> None:
    timm = oracle("timm")
    cfg = timm.create_model("vit_tiny_patch16_224", pretrained=False).pretrained_cfg
    processor = Processor.from_timm({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": cfg})
    assert processor == Processor.crop(224, 0.9, profile="ignore")


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_every_kind_of_input_has_the_same_result(tmp_path: Path) -> None:
    image = make_image(120, 90)
    pixels = np.asarray(image)
    (tmp_path / "image.png").write_bytes(encoded(image))
    tensor = torch.from_numpy(pixels.copy())
    kinds = {
        "path": tmp_path / "image.png",
        "text": str(tmp_path / "image.png"),
        "bytes": encoded(image),
        "file": io.BytesIO(encoded(image)),
        "PIL": image,
        "opened": Image.open(io.BytesIO(encoded(image))),
        "numpy last": pixels,
        "numpy first": pixels.transpose(2, 0, 1),
        "numpy floats": pixels / 255,
        "numpy float32": pixels.astype(np.float32) / np.float32(255),
        "numpy 0..255 floats": pixels.astype(np.float64),
        "numpy int64": pixels.astype(np.int64),
        "torch last": tensor,
        "torch first": tensor.permute(2, 0, 1),
        "torch floats": tensor.permute(2, 0, 1) / 255,
        "RGBA": image.convert("RGBA"),
    }
    expected = Processor().array(image)
    for kind, value in kinds.items():
        np.testing.assert_array_equal(Processor().array(value), expected, err_msg=kind)
        single = Processor()([value])
        assert single.dtype == torch.float32
        np.testing.assert_array_equal(single.numpy(), expected[None], err_msg=kind)


def test_batches() -> None:
    processor = Processor.squash(32)
    images = [make_image(50 + i, 60) for i in range(3)]
    expected = torch.stack([torch.from_numpy(processor.array(image)) for image in images])
    assert torch.equal(processor(images), expected)
    assert processor([]).shape == (0, 3, 32, 32)
    same = [make_image(40, 40, seed) for seed in range(3)]
    pixels = np.stack([np.asarray(image) for image in same])
    expected = processor(same)
    for batch in (pixels, pixels.transpose(0, 3, 1, 2), torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 255):
        assert torch.equal(processor(batch), expected)
    assert processor(same[0]).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="different sizes"):
        Processor(resize="none")([make_image(4, 5), make_image(5, 4)])


def test_a_dark_image_in_a_bright_float_batch_stays_dark() -> None:
    batch = torch.zeros(2, 3, 8, 8)
    batch[1] = 200.0
    batch[0] = 1.0
    processor = Processor(size=(8, 8), rescale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert processor(batch)[0].max() == 1


@given(value=st.floats(0, 1, width=32))
@settings(max_examples=30, deadline=None)
def test_floats_are_not_rescaled_twice(value: float) -> None:
    array = Processor.squash(4).array(np.full((4, 4, 3), value, np.float32))
    np.testing.assert_allclose(array, (value - 0.5) / 0.5, atol=1 / 255 + 1e-6)


def test_grayscale_processors_accept_any_image() -> None:
    processor = Processor.squash(28, mean=(0.1307,), std=(0.3081,))
    gray = make_image(28, 28, mode="L")
    expected = ((np.asarray(gray) / 255).astype(np.float32) - np.float32(0.1307)) / np.float32(0.3081)
    np.testing.assert_array_equal(processor.array(gray)[0], expected)
    for image in (np.asarray(gray), make_image(28, 28), np.asarray(gray)[None], encoded(gray)):
        assert processor.array(image).shape == (1, 28, 28)


def test_images_in_other_modes_are_almost_equal() -> None:
    image, processor = make_image(200, 300), Processor()
    expected = processor.array(image)
    for mode, most in (("RGBA", 0), ("CMYK", 0.02), ("YCbCr", 0.02), ("HSV", 0.03), ("LAB", 0.05)):
        if mode == "LAB":
            continue
        assert np.abs(processor.array(image.convert(mode)) - expected).mean() <= most, mode


def test_the_table_equals_the_formula() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        mean, std = generator.random(3), generator.random(3) + 0.01
        processor = Processor(size=(16, 16), mean=tuple(mean), std=tuple(std))
        pixel_values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
        naive = (
            (pixel_values.astype(np.float64) * (1 / 255)).astype(np.float32) - mean.astype(np.float32)
        ) / std.astype(np.float32)
        np.testing.assert_array_equal(processor.array(pixel_values), naive.transpose(2, 0, 1))
        torch_result = (torch.from_numpy(pixel_values).float().div(255) - torch.tensor(mean).float()) / torch.tensor(
            std
        ).float()
        np.testing.assert_array_equal(processor.array(pixel_values), torch_result.numpy().transpose(2, 0, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"resize": "squish"},
        {"interpolation": "cubic"},
        {"center_crop": "middle"},
        {"size": (0, 4)},
        {"mean": (0.5, 0.5)},
        {"std": (1.0,)},
        {"std": (0.0, 1.0, 1.0)},
        {"resize_to": 256},
        {"fill": (0, 0)},
        {"profile": "maybe"},
    ],
    ids=str,
)
def test_invalid_settings_raise(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Processor(**settings)
    with pytest.raises(ValueError, match="crop_fraction"):
        Processor.crop(224, 1.5)


def test_invalid_inputs_raise() -> None:
    for nothing in (None, 3, {"image": 1}, object()):
        with pytest.raises(TypeError, match="expected a path"):
            Processor().array(nothing)


def test_importing_the_processor_does_not_import_torch() -> None:
    code = (
        "import sys, numpy; from vitkit.data.processor import Processor; Processor().array(numpy.zeros((4, 4), 'u1'))"
    )
    code += "; assert 'torch' not in sys.modules; assert 'vitkit.models' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_real_images_without_profiles(shared: Path) -> None:
    """Real images, compared with transformers and timm."""
    processor = Processor.crop(224, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    timm_data = oracle("timm.data")
    transform = timm_data.create_transform(input_size=(3, 224, 224), crop_pct=0.875, interpolation="bicubic")
    processor = replace(processor, profile="ignore")
    squash = Processor(profile="ignore")
    for path in sorted((shared / "data/imagenet_sample").glob("*.JPEG"))[::10]:
        image = Image.open(path).convert("RGB")
        np.testing.assert_array_equal(processor.array(path), transform(image).numpy())
        np.testing.assert_array_equal(squash.array(path), huggingface(image))


def test_the_reference_preprocessing_of_deit(shared: Path) -> None:
    """weights/deit_tiny: short side 256, long side rounded to nearest, start of the crop rounded down."""
    settings = {"resize": "shortest", "resize_to": (256, 256), "center_crop": "huggingface", "interpolation": "bicubic"}
    processor = Processor(mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0, profile="ignore", **settings)
    for path in sorted((shared / "data/imagenet_sample").glob("*.JPEG"))[::5]:
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        expected = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        np.testing.assert_array_equal(processor.array(path), expected.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "values", [{"mean": ("a", 0.5, 0.5)}, {"std": "abc"}, {"rescale": "0.1"}, {"mean": (True, 0.5, 0.5)}]
)
def test_statistics_are_numbers(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Processor\.(mean|std|rescale) must consist of numbers, got"):
        Processor(size=(8, 8), **values)
