"""Weights from files, folders and the Hub: equal to what timm loads, and adapted by timm's rules."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from oracles import oracle
from timm_pairs import KINDS, assert_close, fill, images, sizes
from torch import nn

import vitkit
import vitkit.timm as ours
from vitkit import checkpoints, models
from vitkit.models import vit
from vitkit.timm.models import _factory, _saved, load_checkpoint

theirs = oracle("timm")
SAVED = [KINDS[0], KINDS[1], KINDS[3], KINDS[6], KINDS[8], "beit_base_patch16_224", KINDS[10], KINDS[11]]
QUIET = pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")


def save(name: str, folder: Path, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """Saves a random model of timm as a timm folder. Returns the model and its arguments."""
    arguments = sizes(name) | changes
    model = fill(theirs.create_model(name, **arguments))
    theirs.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model, arguments


@pytest.mark.parametrize("name", SAVED)
@torch.no_grad()
def test_a_timm_folder(name: str, tmp_path: Path) -> None:
    model, arguments = save(name, tmp_path)
    batch = images(model)
    expected = model(batch)
    source = f"local-dir:{tmp_path}"
    own = ours.create_model(source, pretrained=True).eval()
    assert_close(own(batch), expected)
    same = theirs.create_model(source, pretrained=True)
    shared = {key: own.default_cfg[key] for key in same.default_cfg}
    assert json.dumps(shared) == json.dumps(same.default_cfg)
    assert_close(ours.create_model(name, pretrained=tmp_path, **arguments).eval()(batch), expected)
    path = str(tmp_path / "model.safetensors")
    assert_close(ours.create_model(name, checkpoint_path=path, **arguments).eval()(batch), expected)
    assert own.state_dict().keys() == model.state_dict().keys()


@QUIET
@pytest.mark.parametrize("name", [KINDS[0], KINDS[1], KINDS[3], "beit_base_patch16_224", KINDS[8], "flexivit_small"])
@torch.no_grad()
def test_weights_are_adapted_as_in_timm(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    source = f"local-dir:{tmp_path}"
    for changes in (
        {"img_size": 48},
        {"img_size": (32, 64)},
        {"in_chans": 1},
        {"in_chans": 5},
        {"num_classes": 3},
        {"num_classes": 0},
        {"patch_size": 4},
    ):
        if "patch_size" in changes and "beit" in name:
            continue
        model, own = (library.create_model(source, pretrained=True, **changes).eval() for library in (theirs, ours))
        if changes.get("num_classes"):
            own.head.load_state_dict(model.head.state_dict())
            if hasattr(model, "head_dist"):
                own.head_dist.load_state_dict(model.head_dist.state_dict())
        batch = images(model, channels=changes.get("in_chans", 3))
        assert_close(own(batch), model(batch))


@torch.no_grad()
def test_features_of_pretrained_weights(tmp_path: Path) -> None:
    save(KINDS[0], tmp_path)
    source = f"local-dir:{tmp_path}"
    model, own = (
        each.create_model(source, pretrained=True, features_only=True, out_indices=(0,)) for each in (theirs, ours)
    )
    batch = torch.randn(1, 3, 32, 32)
    assert_close(own.eval()(batch), model.eval()(batch))


@torch.no_grad()
def test_checkpoints_of_other_libraries(tmp_path: Path) -> None:
    """`pretrained` takes whatever `vitkit.load` reads: here transformers' layout and vitkit's own."""
    model, arguments = save(KINDS[0], tmp_path / "timm", num_classes=5)
    loaded = checkpoints.load(tmp_path / "timm")
    for to in ("huggingface", "vitkit"):
        path = tmp_path / to
        checkpoints.save(loaded, path, to=to)
        own = ours.create_model(KINDS[0], pretrained=path, **arguments).eval()
        batch = images(model)
        assert_close(own(batch), model(batch))
        config = ours.data.resolve_model_data_config(own)
        assert config["mean"] == model.default_cfg["mean"]
        assert int(32 / config["crop_pct"]) == int(32 / model.default_cfg["crop_pct"])
        assert config["input_size"] == (3, 32, 32)


def test_a_file_of_weights_has_the_preprocessing_of_its_architecture(tmp_path: Path) -> None:
    model, arguments = save(KINDS[0], tmp_path / "timm")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    own = ours.create_model(KINDS[0], pretrained=tmp_path / "weights.pth", **arguments)
    assert own.default_cfg["num_classes"] == 5
    for key in ("mean", "std", "crop_pct", "interpolation", "input_size"):
        assert own.default_cfg[key] == ours.get_pretrained_cfg(KINDS[0])[key]


def test_heads_of_a_file_without_config_are_those_of_the_architecture(tmp_path: Path) -> None:
    """The tensors do not tell the number of heads: vitkit would guess 1 for this width."""
    changes = {"embed_dim": 64, "num_heads": 4}
    model, arguments = save(KINDS[0], tmp_path / "timm", **changes)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    batch = images(model)
    for how in ({"pretrained": tmp_path / "weights.pth"}, {"checkpoint_path": tmp_path / "weights.pth"}):
        assert_close(ours.create_model(KINDS[0], **how, **arguments).eval()(batch), model(batch))


def test_the_pre_logits_layer_goes_with_the_old_head(tmp_path: Path) -> None:
    config = vit.Config(
        image_size=(32, 32),
        patch_size=(8, 8),
        width=32,
        depth=2,
        num_heads=2,
        mlp_width=128,
        num_classes=9,
        pre_logits=16,
        activation="gelu_tanh",
    )
    loaded = checkpoints.Checkpoint(
        model=models.build(config), processor=vitkit.Processor.squash(32), labels=tuple("abcdefghi")
    )
    checkpoints.save_checked(loaded, tmp_path / "vit.npz", to="npz", lossy=True)
    own = ours.create_model(KINDS[0], pretrained=tmp_path / "vit.npz", **sizes(KINDS[0]))
    assert torch.equal(own.blocks[1].mlp.fc1.weight, loaded.model.blocks[1].mlp.fc1.weight)
    with pytest.raises(RuntimeError, match="pre_logits"):
        ours.create_model(KINDS[0], pretrained=tmp_path / "vit.npz", **sizes(KINDS[0]) | {"num_classes": 9})


def test_a_state_dict_as_overlay() -> None:
    arguments = sizes(KINDS[0])
    model = fill(theirs.create_model(KINDS[0], **arguments))
    overlay = {"state_dict": model.state_dict(), "num_classes": 5}
    own = ours.create_model(KINDS[0], pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    assert_close(dict(own.state_dict()), dict(model.state_dict()))


def test_files_as_overlay(tmp_path: Path) -> None:
    model, arguments = save(KINDS[0], tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 5}
    own = ours.create_model(KINDS[0], pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    assert_close(dict(own.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("cache", [None, "elsewhere"])
def test_published_weights_come_from_the_hub(
    cache: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, arguments = save(KINDS[0], tmp_path / "timm")
    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"], options["cache_dir"]))
        return str(tmp_path / "timm")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    own = ours.create_model(f"{KINDS[0]}.augreg2_in21k_ft_in1k", pretrained=True, cache_dir=cache, **arguments)
    assert asked == [(f"timm/{KINDS[0]}.augreg2_in21k_ft_in1k", None, cache)]
    assert torch.equal(own.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.weight)
    own = ours.create_model("hf-hub:owner/name@v1", pretrained=True, cache_dir=cache)
    assert asked[1][:2] == ("owner/name", "v1")
    assert torch.equal(own.head.weight, model.head.weight)
    ours.create_model(KINDS[0], pretrained="owner/other@v2", cache_dir=cache, **arguments)
    assert asked[-1] == ("owner/other", "v2", cache)


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = sizes(KINDS[0])
    with pytest.raises(
        RuntimeError, match=r"No pretrained weights exist for vit_giant_patch14_224. Use `pretrained=Fa"
    ):
        ours.create_model("vit_giant_patch14_224", pretrained=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'meen'; did you mean 'mean'"):
        ours.create_model(KINDS[0], pretrained_cfg_overlay={"meen": 1}, **arguments)
    with pytest.raises(TypeError, match="pretrained is 3; expected True, False, or a path or Hub id"):
        ours.create_model(KINDS[0], pretrained=3, **arguments)
    save("beit_base_patch16_224", tmp_path / "beit")
    with pytest.raises(RuntimeError, match="has the weights of the family beit; expected vit for this model"):
        ours.create_model(KINDS[0], pretrained=tmp_path / "beit", **arguments)
    save(KINDS[0], tmp_path / "vit")
    with pytest.raises(RuntimeError, match="has num_heads 2; expected 4 for this model"):
        ours.create_model(KINDS[0], pretrained=tmp_path / "vit", **arguments | {"num_heads": 4})
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.create_model(KINDS[0], pretrained=tmp_path / "vit", **arguments | {"embed_dim": 64})
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*blocks\.2"):
        ours.create_model(KINDS[0], pretrained=tmp_path / "vit", **arguments | {"depth": 3, "num_classes": 7})
    with pytest.raises(RuntimeError, match="fc_norm"):
        ours.create_model(KINDS[0], pretrained=tmp_path / "vit", **arguments | {"global_pool": "avg"})
    for text in ('{"architecture": 3, "pretrained_cfg": {}}', '{"pretrained_cfg": []}', "[]", "{"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(checkpoints.CheckpointError) as caught:
            ours.create_model(f"local-dir:{tmp_path}")
        assert "\n" not in str(caught.value)
    for changes in (
        {"model_args": {"depth": 10**9}},
        {"model_args": {"embed_dim": 10**7, "depth": 1}},
        {"model_args": {"img_size": 10**6}},
        {"model_args": {"img_size": 22.5}, "pretrained_cfg": {"fixed_input_size": True}},
        {"model_args": {"reg_tokens": 10**9}},
        {"architecture": "resnetv2_50x1_bit", "model_args": {"layers": [10**9, 1, 1, 1]}},
        {"model_args": {"embed_dim": "wide"}},
        {"model_args": {"patch_size": 0}},
        {"model_args": {"patch_size": [16]}},
        {"model_args": {"num_classes": "x"}},
        {"model_args": {"num_classes": -3}},
        {"model_args": {"depth": 2.5}},
        {"model_args": {"reg_tokens": -1}},
        {"model_args": {"drop_rate": "x"}},
        {"model_args": {"drop_path_rate": 5}},
        {"model_args": {"qkv_bias": "maybe"}},
        {"architecture": "resnetv2_50x1_bit", "model_args": {"layers": [1.5]}},
        {"architecture": "beit_base_patch16_224", "model_args": {"mlp_ratio": "x"}},
        {"model_args": {"unknown": 1}},
        {"num_classes": 10**8},
        {"pretrained_cfg": {"input_size": "x"}},
        {"pretrained_cfg": {"input_size": [3, 10**6, 10**6], "fixed_input_size": True}},
    ):
        for folder in (tmp_path / "empty", tmp_path / "vit"):
            folder.mkdir(exist_ok=True)
            text = json.dumps({"architecture": KINDS[0], "pretrained_cfg": {}, **changes})
            (folder / "config.json").write_text(text)
            with pytest.raises(ValueError) as caught_sizes:  # noqa: PT011 - any one-line message
                ours.create_model(f"local-dir:{folder}", pretrained=False)
            assert "\n" not in str(caught_sizes.value)
            assert "supported between" not in str(caught_sizes.value), "an error of Python"
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "a\x1b[31m\nb", "pretrained_cfg": {}}))
    with pytest.raises(RuntimeError) as caught_name:
        ours.create_model(f"local-dir:{tmp_path}")
    assert str(caught_name.value).isprintable()


def test_a_folder_has_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json that names or holds other weights does not replace those of its folder or repository."""
    model, _ = save(KINDS[0], tmp_path / "vit")
    other, _ = save(KINDS[0], tmp_path / "other")
    data = json.loads((tmp_path / "vit" / "config.json").read_text())
    data["pretrained_cfg"] |= {"file": str(tmp_path / "other"), "state_dict": {"cls_token": [1.0]}}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(data))
    monkeypatch.setattr(_saved, "download", lambda name, *_: (tmp_path / "vit", "0"))
    monkeypatch.setattr(_factory, "open_checkpoint", lambda source, heads: opened.append(str(source)) or loaded)
    opened: list[str] = []
    loaded = checkpoints.load(tmp_path / "vit", dtype=None)
    for source in (f"local-dir:{tmp_path / 'vit'}", "hf-hub:owner/name"):
        own = ours.create_model(source, pretrained=True)
        assert torch.equal(own.head.weight, model.head.weight)
        assert not torch.equal(own.head.weight, other.head.weight)
    assert opened == [str(tmp_path / "vit"), "owner/name"]


def test_load_checkpoint(tmp_path: Path) -> None:
    model, arguments = save(KINDS[0], tmp_path)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "last.pth.tar")
    own = ours.create_model(KINDS[0], **arguments)
    load_checkpoint(own, tmp_path / "last.pth.tar")
    assert_close(dict(own.state_dict()), dict(model.state_dict()))
    assert isinstance(own.head, nn.Linear)
    assert vitkit.__version__
