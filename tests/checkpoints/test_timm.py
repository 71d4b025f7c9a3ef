"""Conversion to and from timm's ViT, and official files with the same names."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from tiny_vits import SUPPORTED, checkpoint, fill, images

from vitkit import checkpoints
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor

timm = oracle("timm")

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 1.5, "num_classes": 5}
CASES: list[dict[str, Any]] = [
    {"img_size": 32, "patch_size": 8},
    {"img_size": (32, 48), "patch_size": (16, 8), "qkv_bias": False},
    {"img_size": 48, "patch_size": 16, "reg_tokens": 3, "no_embed_class": True, "init_values": 1e-5},
    {"img_size": 32, "patch_size": 8, "reg_tokens": 2, "num_heads": 2},
    {"img_size": 32, "patch_size": 8, "no_embed_class": True},
    {"img_size": 32, "patch_size": 8, "class_token": False, "global_pool": "avg"},
    {
        "img_size": 32,
        "patch_size": 8,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "act_layer": "gelu_tanh",
    },
    {"img_size": 32, "patch_size": 8, "global_pool": "avg"},
    {"img_size": 32, "patch_size": 8, "class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
    {"img_size": 32, "patch_size": 8, "qk_norm": True},
    {"img_size": 32, "patch_size": 8, "num_classes": 0, "in_chans": 1},
    {"img_size": 32, "patch_size": 8, "pos_embed": "none", "embed_dim": 72, "num_heads": 3, "mlp_ratio": 3.7362},
]


def _theirs(arguments: dict[str, Any]) -> Any:
    """Returns a timm model with random weights."""
    return fill(timm.create_model("vit_base_patch16_224", **{**SMALL, **arguments}))


def _size(arguments: dict[str, Any]) -> tuple[int, int]:
    size = arguments["img_size"]
    return (size, size) if isinstance(size, int) else size


def _save_theirs(model: Any, folder: Path, arguments: dict[str, Any]) -> None:
    timm.models.save_for_hf(model, folder, model_args={**SMALL, **arguments}, safe_serialization=True)


@pytest.mark.parametrize("arguments", CASES)
def test_timm_to_vitkit_and_back(arguments: dict[str, Any], tmp_path: Path) -> None:
    theirs = _theirs(arguments)
    _save_theirs(theirs, tmp_path / "theirs", arguments)
    loaded = checkpoints.load(tmp_path / "theirs")
    assert loaded.origin.format == "timm"
    batch = images(_size(arguments), arguments.get("in_chans", 3))
    with torch.no_grad():
        expected = theirs(batch)
        assert (loaded.model(batch) - expected).abs().max() < 1e-5
    checkpoints.save(loaded, tmp_path / "ours", to="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    with torch.no_grad():
        assert (again(batch) - expected).abs().max() == 0.0


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (16, 64), (80, 80)])
@pytest.mark.parametrize("arguments", [CASES[0], CASES[2]])
def test_other_sizes_as_dynamic_img_size(arguments: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    theirs = _theirs({**arguments, "dynamic_img_size": True})
    _save_theirs(theirs, tmp_path, arguments)
    with torch.no_grad():
        assert (checkpoints.load(tmp_path).model(images(size)) - theirs(images(size))).abs().max() < 1e-5


@pytest.mark.parametrize("index", range(len(SUPPORTED["timm"])))
def test_saved_folder_loads_in_timm(index: int, tmp_path: Path) -> None:
    made = checkpoint(SUPPORTED["timm"][index])
    checkpoints.save(made, tmp_path / "x", to="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    batch = images(made.model.config.image_size, made.model.config.channels)
    with torch.no_grad():
        assert (theirs(batch) - made.model(batch)).abs().max() < 1e-5


@pytest.mark.parametrize(
    "processor",
    [
        Processor.crop(32, 0.9, profile="ignore"),
        Processor.crop(32, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD, profile="ignore"),
        Processor.squash(32, profile="ignore"),
        Processor.squash(32),
        Processor.crop(32, 1.0, interpolation="bilinear"),
    ],
)
def test_processor_round_trips_through_timm(processor: Processor, tmp_path: Path) -> None:
    checkpoints.save(checkpoint(SUPPORTED["timm"][0], processor=processor), tmp_path / "x", to="timm")
    assert checkpoints.load(tmp_path / "x").processor == processor


def test_hub_config_without_arguments(tmp_path: Path) -> None:
    """Folders on the Hub have an architecture, pretrained_cfg and label names, but no model_args."""
    theirs = _theirs({"img_size": 32, "patch_size": 8})
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    cfg = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {
        "architecture": "vit_test",
        "num_classes": 5,
        "num_features": 64,
        "global_pool": "token",
        "pretrained_cfg": cfg,
    }
    names = {"label_names": ["n1", "n2", "n3", "n4", "n5"], "label_descriptions": {"n1": "one", "n2": "two"}}
    (tmp_path / "config.json").write_text(json.dumps(config | names))
    loaded = checkpoints.load(tmp_path, config={"num_heads": 4})
    assert loaded.labels == ("one", "two", "n3", "n4", "n5")
    assert loaded.processor == Processor.from_timm(cfg)
    with torch.no_grad():
        assert (loaded.model(images((32, 32))) - theirs(images((32, 32)))).abs().max() < 1e-5


def _plain(**arguments: Any) -> dict[str, torch.Tensor]:
    return dict(_theirs({"img_size": 32, "patch_size": 8, **arguments}).state_dict())


def _load(state: Any, path: Path, **options: Any) -> checkpoints.Checkpoint:
    torch.save(state, path)
    return checkpoints.load(path, **{"config": {"num_heads": 4}, **options})


def _same(loaded: checkpoints.Checkpoint, state: dict[str, torch.Tensor]) -> bool:
    ours = loaded.model.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[key], state[key]) for key in ours)


def test_deit_file(tmp_path: Path) -> None:
    state = _plain()
    loaded = _load({"model": state}, tmp_path / "deit_tiny_patch16_224-a1311bcf.pth")
    assert _same(loaded, state)
    assert loaded.model.config.position_resize == "bicubic"
    assert loaded.processor.mean == IMAGENET_MEAN


def test_deit3_file(tmp_path: Path) -> None:
    state = _plain(no_embed_class=True, init_values=1e-4)
    official = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value for key, value in state.items()
    }
    loaded = _load({"model": official}, tmp_path / "deit_3_small_224_1k.pth")
    assert _same(loaded, state)
    assert loaded.model.config.position_tokens == "patches"
    assert loaded.processor.resize_to in (32, None)


def test_dino_files(tmp_path: Path) -> None:
    state = _plain(num_classes=0)
    loaded = _load(state, tmp_path / "dino_deitsmall16_pretrain.pth")
    assert _same(loaded, state)
    assert loaded.model.config.position_resize == "bicubic_offset"
    head = {"mlp.0.weight": torch.zeros(4, 4), "last_layer.weight_g": torch.zeros(4, 1)}
    full = {
        "student": {f"module.backbone.{key}": value + 1 for key, value in state.items()},
        "teacher": {f"backbone.{key}": value for key, value in state.items()}
        | {f"head.{key}": value for key, value in head.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.1),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }
    loaded = _load(full, tmp_path / "dino_deitsmall16_pretrain_full_checkpoint.pth")
    assert _same(loaded, state)
    assert loaded.model.config.position_resize == "bicubic_offset"
    assert "ignored: optimizer (not model weights)" in loaded.origin.notes


def test_dinov2_file(tmp_path: Path) -> None:
    state = _plain(num_classes=0, init_values=1e-5, reg_tokens=4, no_embed_class=True)
    official = {key.replace("reg_token", "register_tokens"): value for key, value in state.items()}
    official["pos_embed"] = torch.cat([torch.ones(1, 1, 64), state["pos_embed"]], dim=1)
    official["mask_token"] = torch.zeros(1, 64)
    loaded = _load(official, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    assert (loaded.model.config.num_registers, loaded.model.config.position_tokens) == (4, "class+patches")
    theirs = _theirs(
        {
            "img_size": 32,
            "patch_size": 8,
            "num_classes": 0,
            "init_values": 1e-5,
            "reg_tokens": 4,
            "no_embed_class": True,
        }
    )
    with torch.no_grad():
        theirs.load_state_dict(state | {"cls_token": state["cls_token"] + 1})
        assert (loaded.model(images((32, 32))) - theirs(images((32, 32)))).abs().max() < 1e-5


def test_dinov2_giant_names(tmp_path: Path) -> None:
    from timm.layers import SwiGLUPacked

    arguments = {
        "num_classes": 0,
        "init_values": 1e-5,
        "mlp_layer": SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
        "mlp_ratio": 3.0,
    }
    theirs = _theirs(dict(img_size=32, patch_size=8, **arguments))
    official = {
        key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): v for key, v in theirs.state_dict().items()
    }
    loaded = _load(official, tmp_path / "dinov2_vitg14_pretrain.pth")
    with torch.no_grad():
        assert (loaded.model(images((32, 32))) - theirs(images((32, 32)))).abs().max() < 1e-5


def test_mae_files(tmp_path: Path) -> None:
    state = _plain(num_classes=0)
    decoder = {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_pos_embed": torch.zeros(1, 17, 16),
        "decoder_embed.weight": torch.zeros(16, 64),
        "decoder_blocks.0.norm1.weight": torch.zeros(16),
        "decoder_norm.weight": torch.zeros(16),
        "decoder_pred.bias": torch.zeros(192),
    }
    assert _same(_load({"model": state}, tmp_path / "mae_pretrain_vit_base.pth"), state)
    loaded = _load({"model": state | decoder}, tmp_path / "mae_pretrain_vit_base_full.pth")
    assert _same(loaded, state)
    assert "ignored: MAE's decoder" in loaded.origin.notes
    tuned = _plain(global_pool="avg")
    loaded = _load({"model": tuned}, tmp_path / "mae_finetuned_vit_base.pth")
    assert _same(loaded, tuned)
    assert (loaded.model.config.pool, loaded.model.config.norm) == ("gap", "pooled")


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "state_dict.model.", "net."]
)
def test_wrappers_in_the_names(wrapper: str, tmp_path: Path) -> None:
    state = _plain()
    loaded = _load({f"{wrapper}{key}": value for key, value in state.items()}, tmp_path / "x.pth")
    assert _same(loaded, state)
    assert f"weights under '{wrapper}'" in loaded.origin.notes


def test_ema_weights_are_preferred_in_training_checkpoints(tmp_path: Path) -> None:
    state = _plain()
    raw = {key: value + 1 for key, value in state.items()}
    both = {"state_dict": raw, "state_dict_ema": state, "optimizer": {"state": {}}, "epoch": 3}
    assert _same(_load(both, tmp_path / "last.pth.tar.pt"), state)


def test_old_files_have_a_pre_logits_layer(tmp_path: Path) -> None:
    state = _plain() | {"pre_logits.fc.weight": torch.randn(64, 64), "pre_logits.fc.bias": torch.randn(64)}
    loaded = _load(state, tmp_path / "vit_base_in21k.pth")
    assert _same(loaded, state)
    assert loaded.model.config.pre_logits == 64
