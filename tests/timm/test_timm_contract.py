"""Contract of every architecture: names, arguments, parameters, modules and settings are timm's."""

import json
import warnings
from typing import Any

import pytest
import torch
from oracles import oracle
from timm_pairs import HYBRID, KINDS, assert_close, images, pair, sizes
from torch import nn

import vitkit.timm as ours
from vitkit.checkpoints.formats.timm import _architectures

theirs = oracle("timm")
NAMES = sorted(_architectures.architectures())
VIT_MODULES = ("vision_transformer", "deit", "beit", "vision_transformer_hybrid")
# Modules that differ inside: the ResNet of a hybrid, timm's rotary embedding, and attention pooling.
INNER = ("patch_embed.backbone", "rope", "attn_pool")


def meta(library: Any, name: str) -> nn.Module:
    """Returns a small model without values (timm's hybrids need values to find the size of their maps)."""
    arguments = sizes(name)
    with torch.device("cpu" if arguments is HYBRID else "meta"):
        return library.create_model(name, **arguments)


def structure(model: nn.Module) -> tuple[Any, ...]:
    parameters = [(name, tuple(each.shape)) for name, each in model.named_parameters()]
    state = [(name, tuple(each.shape)) for name, each in model.state_dict().items()]
    modules = {name for name, _ in model.named_modules() if not name.startswith(INNER)}
    return parameters, state, modules


def check_structure(name: str) -> None:
    model, own = meta(theirs, name), meta(ours, name)
    expected, found = structure(model), structure(own)
    assert found[:2] == expected[:2]
    if "_bit" not in name:
        assert found[2] == expected[2]
    assert own.default_cfg == own.pretrained_cfg == model.pretrained_cfg
    same = ("num_classes", "num_features", "head_hidden_size", "in_chans", "feature_info")
    same += () if "_bit" in name else ("embed_dim", "global_pool", "num_prefix_tokens", "grad_checkpointing")
    for attribute in same:
        assert getattr(own, attribute) == getattr(model, attribute), attribute


@pytest.mark.parametrize("name", KINDS[:-1])
def test_parameters_modules_and_settings(name: str) -> None:
    check_structure(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_modules_and_settings_of_every_architecture(name: str) -> None:
    check_structure(name)


# The larger BiT have up to a billion parameters.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_bit") or "50x1" in name])
def test_outputs_of_every_architecture(name: str) -> None:
    model, own = pair(name)
    batch = images(model)
    with torch.no_grad():
        features = model.forward_features(batch)
        assert_close(own.forward_features(batch), features)
        assert_close(own.forward_head(features), model.forward_head(features))
        assert_close(own(batch), model(batch))


def test_the_table_is_that_of_the_installed_timm() -> None:
    """Every architecture of timm's ViT modules is supported, or listed as unsupported with its reason."""
    known = {*NAMES, *_architectures.unsupported()}
    assert not known - {*theirs.list_models(), *_architectures.unsupported()}
    expected = {name for module in VIT_MODULES for name in theirs.list_models(module=module)}
    expected |= {name for name in theirs.list_models(module="eva") if "dinov3" in name}
    expected |= {name for name in theirs.list_models(module="resnetv2") if name.endswith("_bit")}
    assert not expected - known, "run scripts/timm_architectures.py"


def test_settings_of_all_published_weights() -> None:
    for name in ours.list_models(include_tags=True):
        expected = theirs.get_pretrained_cfg(name)
        assert json.dumps(ours.get_pretrained_cfg(name).to_dict(), sort_keys=True) == json.dumps(
            expected.to_dict(), sort_keys=True
        )
        assert ours.is_model_pretrained(name) == theirs.is_model_pretrained(name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"filter": "deit3*"},
        {"filter": ["vit_*_patch32*", "beit*"], "exclude_filters": "*384*"},
        {"module": "beit", "pretrained": True},
        {"filter": "vit_base_patch16_224", "pretrained": True},
        {"filter": "*dinov2*", "include_tags": True},
        {"filter": "vit_small*", "pretrained": True, "include_tags": False},
    ],
)
def test_lists_of_names(options: dict[str, Any]) -> None:
    expected = [name for name in theirs.list_models(**options) if ours.is_model(name)]
    assert ours.list_models(**options) == expected


def test_public_names() -> None:
    for module in (ours, ours.models, ours.data, ours.layers):
        assert sorted(module.__all__) == module.__all__
        assert all(hasattr(module, name) for name in module.__all__)
    missing = {name for name in dir(theirs) if callable(getattr(theirs, name)) and name.islower()} - set(dir(ours))
    assert missing == {"is_exportable", "is_scriptable", "set_exportable", "set_scriptable"}


def test_names() -> None:
    assert ours.is_model("vit_base_patch16_224")
    assert ours.is_model("vit_base_patch16_224.augreg_in21k")
    assert not ours.is_model("resnet50")
    assert ours.list_pretrained("deit_tiny*") == theirs.list_pretrained("deit_tiny*")
    assert ours.get_pretrained_cfg("resnet50") is None
    assert ours.get_pretrained_cfg_value("deit_tiny_patch16_224", "mean") == (0.485, 0.456, 0.406)
    assert ours.model_entrypoint("deit_tiny_patch16_224")(**sizes("deit_tiny_patch16_224")).num_classes == 5
    with pytest.warns(UserWarning, match="Mapping deprecated model name vit_base_patch16_224_in21k to current"):
        model = ours.create_model("vit_base_patch16_224_in21k", **sizes("vit_base_patch16_224"))
    assert model.default_cfg["tag"] == "augreg_in21k"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("vit_base_patch16_225", RuntimeError, r"Unknown model \(vit_base_patch16_225\); did you mean 'vit_base_patch"),
        ("resnet50", RuntimeError, r"Unknown model \(resnet50\)"),
        ("xyz", RuntimeError, r"Unknown model \(xyz\); vitkit.timm.list_models\(\) lists the supported names"),
        ("vit_base_patch16_18x2_224", RuntimeError, "does not support this architecture of timm, which has parallel"),
        ("vit_base_patch16_224.nothing", RuntimeError, r"Invalid pretrained tag \(nothing\) for vit_base_patch16_224"),
        ("google/vit-base-patch16-224", ValueError, "Use 'hf-hub:google/vit-base-patch16-224'"),
        ("ftp:x", ValueError, "Unknown model source 'ftp' in model name 'ftp:x', valid sources: hf-hub, local-dir"),
        ("local-dir:", ValueError, "has no model id / path after the 'local-dir:' prefix"),
        ("local-dir:/nowhere/at/all", FileNotFoundError, "Config file not found"),
    ],
)
def test_wrong_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ours.create_model(name)
    if not name.startswith("vit_base_patch16_18x2") and name != "resnet50":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(error):
                theirs.create_model(name)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"drop_paht_rate": 0.1},
            TypeError,
            "unexpected keyword argument 'drop_paht_rate'; did you mean 'drop_path_rate",
        ),
        ({"proj_bias": False}, ValueError, "VisionTransformer: proj_bias=False is not supported by vitkit; expected T"),
        ({"norm_layer": nn.BatchNorm1d}, ValueError, "norm_layer is .*BatchNorm1d.*LayerNorm"),
        ({"act_layer": nn.Tanh}, ValueError, "act_layer is .*Tanh.*expected one of gelu"),
        (
            {"global_pool": "mean"},
            AssertionError,
            "Only avg, avgmax, max, token or map pooling .* Got global_pool='mean'",
        ),
        ({"global_pool": "max"}, ValueError, "global_pool='max' is not supported by vitkit; expected '' or 'avg' or"),
        ({"class_token": False}, AssertionError, "Token pooling needs the class token"),
        ({"num_heads": 5}, ValueError, "32 is not a multiple of the number of heads 5"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        ours.create_model("vit_base_patch16_224", **sizes("vit_base_patch16_224") | arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("drop_path_rate") <= 1
