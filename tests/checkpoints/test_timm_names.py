"""Heads and depth of every timm architecture, and unsupported architectures."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from safetensors.torch import load_file, save_file
from tiny_vits import SUPPORTED, checkpoint

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError
from vitkit.checkpoints.detect import detect_format
from vitkit.checkpoints.formats import RawCheckpoint
from vitkit.checkpoints.formats.timm import _architectures, _config
from vitkit.checkpoints.tensors import Info, Tensors

timm = oracle("timm")

MODULES = ("vision_transformer", "deit", "beit", "vision_transformer_hybrid")
NAMES = [name for module in MODULES for name in timm.list_models(module=module)]
NAMES += [name for name in timm.list_models(module="eva") if "dinov3" in name and "7b" not in name]


def infer(name: str) -> tuple[Any, Any]:
    """Returns timm's model on the meta device and the config that vitkit infers from it."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name)
    infos = {key: Info(tuple(value.shape), value.dtype) for key, value in model.state_dict().items()}
    config_json = {"architecture": name, "num_classes": model.num_classes, "pretrained_cfg": model.pretrained_cfg}
    config_json = json.loads(json.dumps(config_json, default=str))
    detected = detect_format(Tensors(infos, lambda key: torch.zeros(infos[key].shape)), config_json, None)
    if detected.unknown:
        raise CheckpointError(f"{detected.unknown[:3]} are unknown")
    raw = RawCheckpoint(tensors=detected.tensors, config=config_json, overrides={}, wrapper=detected.wrapper)
    return model, detected.format.describe(raw).config


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_heads_and_depth_of_every_architecture(name: str) -> None:
    if name in _architectures.unsupported():
        with pytest.raises(CheckpointError):
            infer(name)
        return
    model, config = infer(name)
    assert (config.num_heads, config.depth) == (model.blocks[0].attn.num_heads, len(model.blocks))
    depth, heads = _config.architecture_size(name)
    assert depth in (None, config.depth)
    assert heads in (None, config.num_heads)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A timm folder."""
    checkpoints.save(checkpoint(SUPPORTED["timm"][0]), tmp_path / "x", to="timm")
    return tmp_path / "x"


def _write_config(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_base_patch16_rpn_224", r"vit_base_patch16_rpn_224 applies norms after .*\(post-norm\)"),
        ("resnet50", "config.json: architecture is 'resnet50', but the tensors are those of a ViT"),
        ("resnetv2_50x1_bit", "architecture is 'resnetv2_50x1_bit', but"),
        ("swin_tiny_patch4_window7_224", "architecture is 'swin_tiny"),
        ("test_vit4.r160_in1k", "test_vit4 has RMSNorm, which vitkit does not support; load it with timm"),
        ("vit_base_patch16_18x2_224", "vit_base_patch16_18x2_224 has parallel blocks"),
    ],
)
def test_unsupported_architectures(name: str, message: str, folder: Path) -> None:
    _write_config(folder, architecture=name)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "test_vit3"}, "test_vit3 sets pool_include_prefix=True, which changes the output"),
        ({"architecture": "test_vit3.r160_in1k"}, "test_vit3.r160_in1k sets pool_include_prefix"),
        ({"model_args": {"scale_attn_norm": True}}, "model_args has scale_attn_norm=True, which changes"),
        ({"model_args": {"norm_layer": "rmsnorm"}}, "model_args has norm_layer='rmsnorm', which changes"),
        ({"model_args": {"of_the_future": 3}}, "model_args has of_the_future=3, which changes"),
    ],
)
def test_arguments_without_tensors_are_not_ignored(config: dict[str, Any], message: str, folder: Path) -> None:
    _write_config(folder, **{"architecture": "vit_tiny_patch16_224", **config})
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(folder)


def test_arguments_that_have_no_effect(folder: Path) -> None:
    arguments = {"depth": 2, "num_heads": 2, "dynamic_img_size": True, "drop_path_rate": 0.1, "norm_layer": None}
    _write_config(folder, architecture="vit_tiny_patch16_224", model_args={**arguments, "scale_mlp_norm": False})
    assert checkpoints.load(folder).model.config.depth == 2


def test_missing_last_block(folder: Path) -> None:
    """The architecture or its arguments require another number of blocks."""
    _write_config(folder, architecture="vit_tiny_patch16_224.augreg_in21k")
    with pytest.raises(CheckpointError, match="depth is 12, but the tensors have 2"):
        checkpoints.load(folder)
    _write_config(folder, architecture="vit_tiny_patch16_224", model_args={"depth": 2, "num_heads": 4})
    assert checkpoints.load(folder).model.config.num_heads == 4
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in tensors.items() if "blocks.1." not in name}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="depth is 2, but the tensors have 1"):
        checkpoints.load(folder)


def test_num_heads_by_architecture_name(folder: Path) -> None:
    _write_config(folder, architecture="test_vit", model_args={"depth": 2})
    assert checkpoints.load(folder).model.config.num_heads == 2
