"""DeiT, BEiT and DINOv3: conversion to and from timm, and official files in their own layouts."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from safetensors.torch import load_file
from tiny_vits import fill, images
from torch import Tensor

from vitkit import checkpoints, models
from vitkit.checkpoints import Checkpoint, CheckpointError
from vitkit.data.processor import IMAGENET_MEAN, Processor
from vitkit.layers import relative_index
from vitkit.models import beit, deit, dinov3

timm = oracle("timm")

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
SHARED: dict[str, Any] = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"}
ABSOLUTE: dict[str, Any] = {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "init_values": 0.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "deit": ("deit_tiny_distilled_patch16_224", {"num_classes": 5}),
    "deit narrow": ("deit_tiny_distilled_patch16_224", {"num_classes": 5, "img_size": (32, 48), "qkv_bias": False}),
    "beit": ("beit_base_patch16_224", {"num_classes": 5}),
    "beit shared": ("beitv2_base_patch16_224", {"num_classes": 5, **SHARED}),
    "beit absolute": ("beit_base_patch16_224", {"num_classes": 5, **ABSOLUTE}),
    "dinov3": ("vit_small_patch16_dinov3", {"num_classes": 5, "global_pool": "token"}),
    "dinov3 biased": ("vit_small_patch16_dinov3_qkvb", {"num_classes": 0, "rope_temperature": 50}),
    "dinov3 gated": ("vit_small_plus_patch16_dinov3", {"num_classes": 0, "mlp_ratio": 3.0}),
}


def theirs(name: str) -> tuple[Any, dict[str, Any], tuple[int, int]]:
    kind, more = CASES[name]
    arguments = SMALL | more
    size = arguments["img_size"]
    return fill(timm.create_model(kind, **arguments)), arguments, (size, size) if isinstance(size, int) else size


@pytest.mark.parametrize("name", CASES)
def test_timm_to_vitkit_and_back(name: str, tmp_path: Path) -> None:
    model, arguments, size = theirs(name)
    timm.models.save_for_hf(model, tmp_path / "theirs", model_args=arguments, safe_serialization=True)
    loaded = checkpoints.load(tmp_path / "theirs")
    assert loaded.origin.format == f"{name.split()[0]}_timm"
    batch = images(size)
    with torch.no_grad():
        expected = model(batch)
        assert (loaded.model(batch) - expected).abs().max() < 1e-5
    assert checkpoints.save(loaded, tmp_path / "timm", to="timm") == loaded.origin.format
    before, after = load_file(tmp_path / "theirs/model.safetensors"), load_file(tmp_path / "timm/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    opened = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    with torch.no_grad():
        assert (opened(batch) - expected).abs().max() < 1e-5
    again = checkpoints.load(tmp_path / "timm")
    assert again.model.config == loaded.model.config
    assert again.processor == loaded.processor


def official(name: str) -> tuple[models.Backbone, dict[str, Tensor]]:
    """Returns a vitkit model and its state dict as the official code saves it, with additional entries."""
    noise = torch.Generator().manual_seed(5)
    if name == "deit":
        model = fill(models.build(dataclasses.replace(deit.TINY, width=64, num_heads=1)))
        return model, model.state_dict()
    if name.startswith("beit"):
        pretrained = name == "beit pt"
        changes = {"relative": "shared", "pool": "token", "num_classes": 0} if pretrained else {}
        model = fill(models.build(dataclasses.replace(beit.TINY, width=64, num_heads=1, **changes)))
        state = {key.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): tensor
                 for key, tensor in model.state_dict().items()}  # fmt: skip
        for key in [key for key in state if key.endswith("relative_position_bias_table")]:
            state[key.replace("bias_table", "index")] = relative_index((4, 4))
        if pretrained:
            state |= {
                "mask_token": torch.ones(1, 1, 64),
                "lm_head.weight": torch.ones(7, 64),
                "lm_head.bias": torch.ones(7),
            }
        return model, state
    config = dataclasses.replace(dinov3.TINY, width=64, num_heads=1, num_classes=0, num_registers=4, mlp="swiglu")
    model = fill(models.build(config))
    state = model.state_dict()
    state["storage_tokens"] = state.pop("reg_token")
    for index in range(config.depth):
        attention, mlp = f"blocks.{index}.attn", f"blocks.{index}.mlp"
        q, v = state.pop(f"{attention}.q_bias"), state.pop(f"{attention}.v_bias")
        state[f"{attention}.qkv.bias"] = torch.cat([q, torch.full_like(q, torch.nan), v])
        state[f"{attention}.qkv.bias_mask"] = torch.cat([torch.ones(64), torch.zeros(64), torch.ones(64)])
        for leaf in ("weight", "bias"):
            state[f"{mlp}.w1.{leaf}"], state[f"{mlp}.w2.{leaf}"] = state.pop(f"{mlp}.fc1.{leaf}").chunk(2)
            state[f"{mlp}.w3.{leaf}"] = state.pop(f"{mlp}.fc2.{leaf}")
    state["mask_token"] = torch.randn(1, 64, generator=noise)
    state["rope_embed.periods"] = torch.ones(16)
    state |= {"local_cls_norm.weight": torch.ones(64), "local_cls_norm.bias": torch.ones(64)}
    return model, state


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("deit", "deit_tiny_distilled_patch16_224-b40b3cf7.pth"),
        ("beit ft", "beit_base_patch16_224_pt22k_ft22kto1k.pth"),
        ("beit pt", "beitv2_base_patch16_224_pt1k.pth"),
        ("dinov3", "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth"),
    ],
)
def test_official_to_vitkit_to_transformers_and_back_is_bit_exact(name: str, file: str, tmp_path: Path) -> None:
    model, state = official(name)
    torch.save(state if name == "dinov3" else {"model": state}, tmp_path / file)
    loaded = checkpoints.load(tmp_path / file)
    state_dict = loaded.model.state_dict()
    assert state_dict.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(state_dict[key], tensor), key
    batch = images((32, 32))
    assert torch.equal(loaded.model(batch), model(batch))
    checkpoints.save(loaded, tmp_path / "hf", to="huggingface")
    again = checkpoints.load(tmp_path / "hf").model.state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in state_dict.items())
    checkpoints.save(loaded, tmp_path / "timm", to="timm")
    again = checkpoints.load(tmp_path / "timm").model.state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in state_dict.items())


def test_preprocessing_of_official_files(tmp_path: Path) -> None:
    _, state = official("beit ft")
    for file, mean in (("beit_base.pth", (0.5, 0.5, 0.5)), ("beitv2_base.pth", IMAGENET_MEAN)):
        torch.save({"module": state}, tmp_path / file)
        assert checkpoints.load(tmp_path / file).processor.mean == mean


def test_tables_are_resized_as_in_each_project(tmp_path: Path) -> None:
    model, state = official("beit ft")
    torch.save({"model": state}, tmp_path / "beit.pth")
    checkpoints.save(checkpoints.load(tmp_path / "beit.pth"), tmp_path / "timm", to="timm")
    larger = {}
    for source in ("beit.pth", "timm"):
        loaded = checkpoints.load(tmp_path / source, image_size=48)
        assert loaded.model.config.relative_resize == "geometric"
        larger[source] = loaded.model.blocks[0].attn.relative_position_bias_table
        assert larger[source].shape == (11 * 11 + 3, 1)
    assert torch.equal(larger["beit.pth"], larger["timm"])
    own = timm.create_model("beit_base_patch16_224", **(SMALL | {"num_classes": 5, "embed_dim": 64, "num_heads": 1}))
    timm.models.save_for_hf(
        own, tmp_path / "own", model_args=SMALL | {"embed_dim": 64, "num_heads": 1, "num_classes": 5}
    )
    assert checkpoints.load(tmp_path / "own").model.config.relative_resize == "geometric_linear"
    assert model.config.relative_resize == "geometric"


def test_unknown_and_missing_tensors_are_errors(tmp_path: Path) -> None:
    for name in ("deit", "beit ft", "beit pt", "dinov3"):
        _, state = official(name)
        torch.save({**state, "unknown.weight": torch.zeros(3)}, tmp_path / "more.pth")
        with pytest.raises(CheckpointError, match=r"unknown\.weight"):
            checkpoints.load(tmp_path / "more.pth")
        short = {key: tensor for key, tensor in state.items() if key != "blocks.1.norm2.bias"}
        torch.save(short, tmp_path / "less.pth")
        with pytest.raises(CheckpointError, match=r"blocks\.1\.norm2\.bias"):
            checkpoints.load(tmp_path / "less.pth")


def test_invalid_relative_position_table_is_rejected(tmp_path: Path) -> None:
    _, state = official("beit ft")
    for key in [key for key in state if key.endswith("bias_table")]:
        state[key] = torch.zeros(51, 1)
    torch.save({"model": state}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="with 51 rows does not match"):
        checkpoints.load(tmp_path / "odd.pth")


def test_configs_unsupported_by_timm_are_rejected(tmp_path: Path) -> None:
    for config, message in (
        (dataclasses.replace(deit.TINY, norm_eps=1e-12), "norm_eps"),
        (dataclasses.replace(beit.TINY, norm_eps=1e-12), "norm_eps"),
        (dataclasses.replace(dinov3.TINY, pool="token+gap"), "token\\+gap"),
    ):
        made = Checkpoint(model=models.build(config), processor=Processor.squash((32, 32)), labels=tuple("abcde"))
        with pytest.raises(CheckpointError, match=message):
            checkpoints.save(made, tmp_path / "x", to="timm")
