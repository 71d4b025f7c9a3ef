"""Checkpoints of any number of channels: RGB weights adapted on loading, and files of other channels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle

import vitkit
from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def timm_folder(folder: Path, **changes: object) -> Any:
    """Save a tiny ViT as timm does, and return it."""
    timm = oracle("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **{**SIZES, **changes}).eval()
    oracle("timm.models._hub").save_for_hf(model, folder, safe_serialization=True)
    return model


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 12])
def test_adapted_checkpoints_equal_timm(tmp_path: Path, channels: int) -> None:
    timm_folder(tmp_path / "rgb")
    theirs = oracle("timm").create_model(f"local-dir:{tmp_path / 'rgb'}", pretrained=True, in_chans=channels).eval()
    images = torch.randn(2, channels, 32, 32)
    for options in (
        {"channels": channels},
        {"config": {"channels": channels}},
        {"config": {"channels": str(channels)}},
    ):
        ours = vitkit.load(tmp_path / "rgb", **options)
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)
        assert ours.config.channels == ours.processor.channels == channels
        assert ours.origin is not None
        assert f"adapted from 3 to {channels} channels" in ours.origin.notes[-1]
        assert ours.processor.mean == (0.5,) * channels


@pytest.mark.parametrize("channels", [1, 4])
def test_timm_folders_of_other_channels_load(tmp_path: Path, channels: int) -> None:
    model = timm_folder(tmp_path / "c", in_chans=channels)
    ours = vitkit.load(tmp_path / "c")
    images = torch.randn(2, channels, 32, 32)
    torch.testing.assert_close(ours(images), model(images), atol=1e-5, rtol=1e-5)
    assert ours.processor.channels == channels


@pytest.mark.parametrize("channels", [1, 4])
def test_transformers_folders_of_other_channels_load(tmp_path: Path, channels: int) -> None:
    transformers = oracle("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        num_channels=channels,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "c")
    images = torch.randn(2, channels, 32, 32)
    for mean in (None, [0.5, 0.4, 0.3], [0.5], [0.1] * channels):
        written = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
        written |= {} if mean is None else {"image_mean": mean, "image_std": mean}
        (tmp_path / "c/preprocessor_config.json").write_text(json.dumps(written))
        ours = vitkit.load(tmp_path / "c")
        torch.testing.assert_close(ours(images), model(images).logits, atol=1e-5, rtol=1e-5)
        assert ours.processor.channels == channels
        assert ours.origin is not None
        noted = any("mean and std for" in note for note in ours.origin.notes)
        assert noted == (len(mean or "rgb") != channels)
    (tmp_path / "c/preprocessor_config.json").write_text(
        json.dumps({**written, "image_mean": [1, 2], "image_std": [1, 2]})
    )
    with pytest.raises(CheckpointError, match=f"2 values cannot be extended to {channels} channels"):
        vitkit.load(tmp_path / "c")


def test_what_cannot_be_adapted_is_one_sentence(tmp_path: Path) -> None:
    timm_folder(tmp_path / "c", in_chans=4)
    with pytest.raises(
        CheckpointError, match=r"only weights for 3 channels \(RGB\) can be adapted to 2 channels, not weights for 4"
    ):
        checkpoints.load(tmp_path / "c", channels=2)
    assert checkpoints.load(tmp_path / "c", channels=4).model.config.channels == 4
    for wrong in (0, -1, "many", 1.5, True):
        with pytest.raises(CheckpointError, match=r"channels is .*; it must be an integer of at least 1"):
            checkpoints.load(tmp_path / "c", config={"channels": wrong})
