"""DeiT, BEiT, DINO, DINOv2, DINOv3 and MAE: conversion to and from transformers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from tiny_vits import fill, images
from torch import Tensor

from vitkit import checkpoints, models
from vitkit.checkpoints import CheckpointError
from vitkit.checkpoints.formats import all_formats
from vitkit.checkpoints.load import UNTRAINED

BASE: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# name: model class, config class, config fields, and the output to compare.
CASES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {"num_labels": 5}, "logits"),
    "deit single": ("DeiTForImageClassification", "DeiTConfig", {"num_labels": 5}, "logits"),
    "deit without classes": ("DeiTModel", "DeiTConfig", {"layer_norm_eps": 1e-6}, "tokens"),
    "beit": (
        "BeitForImageClassification",
        "BeitConfig",
        {"num_labels": 5, "use_relative_position_bias": True},
        "logits",
    ),
    "beit class token": (
        "BeitForImageClassification",
        "BeitConfig",
        {"num_labels": 5, "use_shared_relative_position_bias": True, "use_mean_pooling": False},
        "logits",
    ),
    "beit absolute": (
        "BeitForImageClassification",
        "BeitConfig",
        {"num_labels": 5, "use_absolute_position_embeddings": True, "layer_scale_init_value": 0.0},
        "logits",
    ),
    "dino": ("ViTModel", "ViTConfig", {"layer_norm_eps": 1e-6}, "tokens"),
    "dinov2": ("Dinov2Model", "Dinov2Config", {}, "tokens"),
    "dinov2 gated": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {"num_labels": 5, "use_swiglu_ffn": True},
        "logits",
    ),
    "dinov2 registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {}, "tokens"),
    "dinov2 gated registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {"num_labels": 5, "use_swiglu_ffn": True},
        "logits",
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 4}, "tokens"),
    "dinov3 gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu", "rope_theta": 50.0},
        "tokens",
    ),
    "dinov3 7b": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {
            "num_register_tokens": 4,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "query_bias": False,
            "value_bias": False,
        },
        "tokens",
    ),
    "mae": ("ViTMAEModel", "ViTMAEConfig", {"mask_ratio": 0.0}, "class token"),
}


@pytest.fixture(scope="module")
def library() -> Any:
    transformers = oracle("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def theirs(library: Any, name: str) -> Any:
    kind, config, more, _ = CASES[name]
    return fill(getattr(library, kind)(getattr(library, config)(**{**BASE, **more})))


def outputs(name: str, model: Any, batch: Tensor) -> Tensor:
    what, size = CASES[name][3], batch.shape[-2:]
    takes = {"interpolate_pos_encoding": True} if name.split()[0] in ("deit", "dino", "mae") else {}
    if takes and size == (32, 32):
        takes = {}
    with torch.no_grad():
        found = model(batch, **takes)
    if what == "logits":
        return found.logits
    return found.last_hidden_state[:, 0] if what == "class token" else found.last_hidden_state


def ours(name: str, model: models.Backbone, batch: Tensor) -> Tensor:
    what = CASES[name][3]
    with torch.no_grad():
        if what == "logits":
            return model(batch)
        tokens = model.features(batch).tokens
    return tokens[:, 0] if what == "class token" else tokens


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("name", CASES)
def test_transformers_to_vitkit_at_native_and_other_sizes(library: Any, name: str, tmp_path: Path) -> None:
    model = theirs(library, name)
    model.save_pretrained(tmp_path)
    loaded = checkpoints.load(tmp_path).model
    sizes = [(32, 32), (48, 48), (40, 64)]
    for size in sizes:
        expected = outputs(name, model, images(size))
        assert (ours(name, loaded, images(size)) - expected).abs().max() < 1e-4, size


@pytest.mark.parametrize("name", CASES)
def test_vitkit_to_transformers_and_back_is_bit_exact(library: Any, name: str, tmp_path: Path) -> None:
    theirs(library, name).save_pretrained(tmp_path / "theirs")
    loaded = checkpoints.load(tmp_path / "theirs")
    # In-memory names of transformers 5 give the same result.
    theirs(library, name).save_pretrained(tmp_path / "v5", save_original_format=False)
    same(loaded.model.state_dict(), checkpoints.load(tmp_path / "v5").model.state_dict())
    assert checkpoints.save(loaded, tmp_path / "hf", to="huggingface").endswith("huggingface")
    again = checkpoints.load(tmp_path / "hf")
    same(loaded.model.state_dict(), again.model.state_dict())
    assert again.model.config == loaded.model.config
    # transformers loads our folder, finds every tensor and computes the same output.
    kind = CASES[name][0].replace("ViTMAEModel", "ViTModel")
    opened, report = getattr(library, kind).from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not {key for key in report["missing_keys"] if "pooler" not in key}
    assert not report["unexpected_keys"]
    expected = ours(name, loaded.model, images((32, 32)))
    assert (outputs(name, opened.eval(), images((32, 32))) - expected).abs().max() < 1e-5
    # vitkit's own layout.
    checkpoints.save(again, tmp_path / "ours", to="vitkit")
    same(loaded.model.state_dict(), checkpoints.load(tmp_path / "ours").model.state_dict())


def test_masked_image_modeling(library: Any, tmp_path: Path) -> None:
    config = library.BeitConfig(**BASE, vocab_size=11, use_mask_token=True, use_shared_relative_position_bias=True)
    model = fill(library.BeitForMaskedImageModeling(config))
    model.save_pretrained(tmp_path)
    loaded = checkpoints.load(tmp_path)
    assert "ignored: the head of masked image modeling" in loaded.origin.notes
    for size in ((32, 32), (48, 40)):
        tokens = (size[0] // 8) * (size[1] // 8)
        mask = torch.rand(2, tokens, generator=torch.Generator().manual_seed(3)) < 0.4
        with torch.no_grad():
            expected = model(images(size), bool_masked_pos=mask).logits
            embedded = loaded.model.embed(images(size))
            patches = torch.where(mask[..., None], model.beit.embeddings.mask_token, embedded.patches)
            joined = embedded.with_tokens(torch.cat([embedded.special, patches], dim=1))
            logits = model.lm_head(loaded.model.encode(joined).patches)
        assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["deit", "beit", "beit class token", "dinov2 gated registers", "dinov3", "mae"])
def test_resizing_at_load_equals_resizing_at_run_time(library: Any, name: str, tmp_path: Path) -> None:
    theirs(library, name).save_pretrained(tmp_path / "theirs")
    native = checkpoints.load(tmp_path / "theirs")
    resized = checkpoints.load(tmp_path / "theirs", image_size=(40, 64))
    assert resized.model.config.image_size == (40, 64)
    assert any("resized from (32, 32) to (40, 64)" in note for note in resized.origin.notes)
    batch = images((40, 64))
    assert (ours(name, resized.model, batch) - ours(name, native.model, batch)).abs().max() < 1e-5
    checkpoints.save(resized, tmp_path / "resized", to="vitkit")
    same(resized.model.state_dict(), checkpoints.load(tmp_path / "resized").model.state_dict())


@pytest.mark.parametrize("name", ["deit", "beit", "dinov2 gated"])
def test_num_classes_replaces_the_heads(library: Any, name: str, tmp_path: Path) -> None:
    theirs(library, name).save_pretrained(tmp_path)
    loaded = checkpoints.load(tmp_path, num_classes=3)
    assert loaded.origin.notes[-2:] == (
        "head with 5 classes replaced with a zero-initialized head for 3 classes",
        UNTRAINED,
    )
    assert loaded.model(images((32, 32))).shape == (2, 3)
    assert not any(tensor.any() for key, tensor in loaded.model.state_dict().items() if key.startswith("head"))


def test_unknown_and_missing_tensors_are_errors(library: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("deit", "beit", "dinov2 gated", "dinov3"):
        theirs(library, name).save_pretrained(tmp_path / name)
        path = tmp_path / name / "model.safetensors"
        tensors = load_file(path)
        key = next(key for key in tensors if "layer.1." in key and key.endswith("weight"))
        save_file({**tensors, "unknown.weight": torch.zeros(2)}, path)
        with pytest.raises(CheckpointError, match=r"unknown\.weight"):
            checkpoints.load(tmp_path / name)
        save_file({other: tensor for other, tensor in tensors.items() if other != key}, path)
        with pytest.raises(CheckpointError, match="missing"):
            checkpoints.load(tmp_path / name)


UNSUPPORTED = [
    ("dinov2_huggingface", "dinov2-s/14", {"layer_scale": None}, "always has LayerScale"),
    ("dinov2_huggingface", "dinov2-s/14", {"mlp_width": 70}, "does not support mlp_width 70 with width 32"),
    ("dinov2_huggingface", "dinov2-s/14", {"num_classes": 5}, "pool='token'"),
    ("dinov3_huggingface", "dinov3-s/16", {"num_classes": 5}, "has no classifier"),
    ("dinov3_huggingface", "dinov3-s/16", {"pool": "gap"}, "pool='gap'"),
    ("huggingface", "deit3-s/16", {}, "position for the class token"),
]


@pytest.mark.parametrize(("layout", "name", "changes", "message"), UNSUPPORTED)
def test_unsupported_reason(layout: str, name: str, changes: dict[str, Any], message: str) -> None:
    small = {"image_size": (28, 28), "patch_size": (14, 14), "num_heads": 2, "width": 32, "depth": 1, "mlp_width": 64}
    config = dataclasses.replace(models.preset(name), **{**small, **changes})
    reason = next(each for each in all_formats() if each.name == layout).unsupported_reason(config)
    assert reason is not None
    assert message in reason


def test_gated_mlp_with_another_activation_is_rejected(library: Any, tmp_path: Path) -> None:
    config = library.DINOv3ViTConfig(**BASE, num_register_tokens=2, use_gated_mlp=True, hidden_act="gelu")
    library.DINOv3ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="hidden_act is gelu; a gated MLP needs"):
        checkpoints.load(tmp_path)
