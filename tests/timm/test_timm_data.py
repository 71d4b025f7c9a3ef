"""Preprocessing beside timm: settings, and the pixels of every evaluation transform."""

from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from PIL import Image
from timm_pairs import KINDS, sizes

import vitkit.timm as ours

theirs = oracle("timm.data")
oracle("torchvision")


def sample(size: tuple[int, int] = (91, 67), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def test_constants() -> None:
    names = [name for name in dir(theirs) if name.startswith(("IMAGENET_", "OPENAI_", "DEFAULT_CROP"))]
    for name in names:
        if name.isupper():
            assert getattr(ours.data, name) == pytest.approx(getattr(theirs, name)), name


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"img_size": 128, "crop_pct": 0.8, "mean": (0.5,), "std": (0.25, 0.5, 0.75)},
        {"input_size": (1, 64, 32), "mean": [0.5], "std": [0.5], "interpolation": "bilinear", "crop_mode": "squash"},
        {"in_chans": 5, "img_size": None, "mean": None},
        {"chans": 1, "img_size": 64},
    ],
)
def test_resolving_settings(args: dict[str, Any]) -> None:
    model = ours.create_model(KINDS[0], **sizes(KINDS[0]))
    cfg = {"test_input_size": (3, 300, 300), "test_crop_pct": 0.95, "input_size": (3, 240, 240), "crop_pct": 0.9}
    for options in (
        {"model": model},
        {"pretrained_cfg": cfg},
        {"pretrained_cfg": cfg, "use_test_size": True},
        {"pretrained_cfg": {"mean": (0.1, 0.2, 0.3)}},
    ):
        assert ours.data.resolve_data_config(args, **options) == theirs.resolve_data_config(args, **options)
    expected = theirs.resolve_model_data_config(model, args=args)
    assert ours.data.resolve_model_data_config(model, args=args) == expected
    with pytest.raises(AssertionError, match="At least one of model, args, or pretrained_cfg required"):
        ours.data.resolve_data_config()


EVALUATION: list[dict[str, Any]] = [
    {},
    {"input_size": 32, "interpolation": "bicubic", "crop_pct": 0.9},
    {"input_size": (3, 32, 48), "crop_pct": 1.0, "crop_mode": "center"},
    {"input_size": (3, 48, 48), "crop_mode": "squash", "crop_pct": 0.95, "interpolation": "bicubic"},
    {"input_size": (3, 48, 32), "crop_mode": "border", "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.2, 0.1)},
    {"input_size": (3, 40, 40), "normalize": False},
    {"input_size": (3, 40, 40), "use_prefetcher": True, "interpolation": "lanczos"},
    {"input_size": 40, "is_training": True, "no_aug": True, "interpolation": "random"},
    {"input_size": (3, 40, 24), "is_training": True, "no_aug": True, "interpolation": "bicubic"},
]


@pytest.mark.parametrize("options", EVALUATION)
def test_pixels_of_evaluation(options: dict[str, Any]) -> None:
    transform, expected = ours.data.create_transform(**options), theirs.create_transform(**options)
    for image in (sample(), sample((40, 120)), sample((33, 33), 1)):
        found, wanted = transform(image), expected(image)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        difference = (found.double() - wanted.double()).abs().max()
        assert difference == 0 if wanted.dtype == torch.uint8 else difference < 1e-6


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_dinov2"])
def test_transform_of_a_model(name: str) -> None:
    cfg = ours.get_pretrained_cfg(name).to_dict()
    config = ours.data.resolve_data_config(pretrained_cfg=cfg)
    image = sample((300, 260))
    found = ours.data.create_transform(**config, is_training=False)(image)
    assert (found - theirs.create_transform(**config, is_training=False)(image)).abs().max() < 1e-6


TRAINING: list[dict[str, Any]] = [
    {"input_size": 32},
    {"input_size": (3, 32, 48), "scale": (0.5, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None},
    {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel", "interpolation": "random"},
    {"auto_augment": "3a", "color_jitter": (0.3, 0.3, 0.3, 0.1), "re_prob": 1.0, "re_mode": "const", "re_count": 3},
    {"auto_augment": "rand-m7-n3-inc1", "normalize": False, "interpolation": "bicubic"},
]


@pytest.mark.parametrize("options", TRAINING)
def test_training_transforms(options: dict[str, Any]) -> None:
    transform = ours.data.create_transform(is_training=True, **{"input_size": 32} | options)
    expected = theirs.create_transform(is_training=True, **{"input_size": 32} | options)(sample())
    torch.manual_seed(3)
    first, second = transform(sample()), transform(sample())
    assert first.shape == expected.shape
    assert first.dtype == expected.dtype
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(transform(sample()), first)


def test_a_full_crop_without_other_augmentation_equals_timm() -> None:
    """Area and aspect ratio leave one possible crop, so that the random transforms of both agree."""
    options = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None, "is_training": True}
    for interpolation in ("bicubic", "bilinear"):
        both = (each.create_transform(32, interpolation=interpolation, **options) for each in (ours.data, theirs))
        found, expected = (transform(sample((60, 60))) for transform in both)
        assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"naflex": True}, ValueError, "naflex=True is not supported by vitkit"),
        ({"crop_border_pixels": 3}, ValueError, "crop_border_pixels=3 is not supported"),
        ({"vflip": 0.5, "is_training": True}, ValueError, "vflip=0.5 is not supported"),
        ({"hflip": 0.3, "is_training": True}, ValueError, "hflip is 0.3; vitkit supports only 0 and 0.5"),
        ({"train_crop_mode": "rkrc", "is_training": True}, ValueError, "train_crop_mode is 'rkrc'"),
        ({"auto_augment": "augmix-m5-w4-d2", "is_training": True}, ValueError, "auto_augment is 'augmix-m5-w4-d2'"),
        (
            {"auto_augment": "rand-m9", "is_training": True},
            ValueError,
            "'rand-m9'; vitkit supports '3a', and RandAugment",
        ),
        ({"re_mode": "noise", "is_training": True}, AssertionError, "re_mode is 'noise'; expected one of 'const'"),
        ({"interpolation": "cubic"}, ValueError, "interpolation must be one of"),
        ({"crop_pc": 0.9}, TypeError, "unexpected keyword argument 'crop_pc'; did you mean 'crop_pct'"),
    ],
)
def test_unsupported_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ours.data.create_transform(**options)
