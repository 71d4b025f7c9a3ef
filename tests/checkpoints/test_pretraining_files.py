"""Official pre-training files of MoCo v3 and SimMIM: which tensors are loaded and which are ignored."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_vits import fill, images
from torch import Tensor

from vitkit import checkpoints, models
from vitkit.data.processor import IMAGENET_MEAN
from vitkit.models import beit, vit

MOCO = dataclasses.replace(vit.TINY, width=48, num_heads=12, mlp_width=96, num_classes=0, position_resize="bicubic")
SIMMIM = dataclasses.replace(beit.TINY, num_classes=0, pool="token", relative="shared")


def moco(probe: bool = False) -> tuple[models.Backbone, dict[str, object]]:
    model = models.build(dataclasses.replace(MOCO, num_classes=7 if probe else 0))
    fill(model)
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    if not probe:
        others = {
            "head.0.weight": torch.ones(8, 48),
            "head.1.running_mean": torch.ones(8),
            "head.1.weight": torch.ones(8),
        }
        state = {f"module.base_encoder.{name}": value for name, value in (model.state_dict() | others).items()}
        state |= {f"module.momentum_encoder.{name}": value + 1 for name, value in (model.state_dict() | others).items()}
        state["module.predictor.0.weight"] = torch.ones(8, 8)
    return model, {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {"state": {}}}


@pytest.mark.parametrize(("name", "probe"), [("vit-s-300ep.pth.tar", False), ("linear-vit-s-300ep.pth.tar", True)])
def test_moco_v3_base_encoder_has_twelve_heads(name: str, probe: bool, tmp_path: Path) -> None:
    model, file = moco(probe)
    torch.save(file, tmp_path / name)
    loaded = checkpoints.load(tmp_path / name)
    assert loaded.model.config.num_heads == 12
    assert loaded.model.config.num_classes == (7 if probe else 0)
    assert (loaded.processor.interpolation, loaded.processor.mean) == ("bilinear", IMAGENET_MEAN)
    batch = images((32, 32))
    with torch.no_grad():
        assert torch.equal(loaded.model.features(batch).tokens, model.features(batch).tokens)
    if not probe:
        assert "ignored: MoCo v3's projector" in loaded.origin.notes


def simmim(normed: bool) -> tuple[models.Backbone, dict[str, Tensor]]:
    """Returns SimMIM's pre-training ViT with the prefix `encoder.`, with or without a final norm."""
    model = models.build(SIMMIM)
    fill(model)
    rename = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        for ours, theirs in rename.items():
            name = name.replace(ours, theirs)
        if normed or not name.startswith("norm."):
            state[f"encoder.{name}"] = value
    state["encoder.mask_token"] = torch.zeros(1, 1, 32)
    state["encoder.rel_pos_bias.relative_position_index"] = torch.zeros(17, 17, dtype=torch.long)
    state |= {"decoder.0.weight": torch.ones(192, 32, 1, 1), "decoder.0.bias": torch.ones(192)}
    return model, state


def test_simmim_with_a_final_norm(tmp_path: Path) -> None:
    model, state = simmim(normed=True)
    torch.save({"model": state, "optimizer": {}}, tmp_path / "simmim.pth")
    loaded = checkpoints.load(tmp_path / "simmim.pth", config={"num_heads": 2})
    assert loaded.origin.format == "beit_timm"
    assert {"weights under 'model.encoder.'", "ignored: the mask token of pre-training"} <= {*loaded.origin.notes}
    batch = images((32, 32))
    with torch.no_grad():
        assert torch.equal(loaded.model.features(batch).tokens, model.features(batch).tokens)


def test_simmim_without_a_final_norm_gets_a_default_norm_after_mean_pooling(tmp_path: Path) -> None:
    model, state = simmim(normed=False)
    torch.save({"model": state}, tmp_path / "simmim.pth")
    loaded = checkpoints.load(tmp_path / "simmim.pth", config={"num_heads": 2})
    assert loaded.model.config.pool == "gap"
    batch = images((32, 32))
    assert isinstance(model, beit.BEiT)
    model.norm = torch.nn.Identity()
    with torch.no_grad():
        mean = model.features(batch).patches.mean(dim=1)
        expected = torch.nn.functional.layer_norm(mean, (32,), eps=1e-6)
        found = loaded.model.represent(loaded.model.features(batch))
    torch.testing.assert_close(found, expected)
    # Without a mask token, a missing norm is an error.
    state.pop("encoder.mask_token")
    torch.save({"model": state}, tmp_path / "broken.pth")
    with pytest.raises(checkpoints.CheckpointError, match=r"missing: norm\.weight, norm\.bias"):
        checkpoints.load(tmp_path / "broken.pth", config={"num_heads": 2})
