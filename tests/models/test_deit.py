"""DeiT with and without distillation, and DeiT III: published sizes, and timm's classes with the same weights."""

import re
from typing import Any

import pytest
import torch
from oracles import oracle
from random_weights import images, random

from vitkit import models
from vitkit.models import deit

COUNTS = {
    "deit-ti/16": 5_717_416,
    "deit-s/16": 22_050_664,
    "deit-b/16": 86_567_656,
    "deit-ti/16-distilled": 5_910_800,
    "deit-s/16-distilled": 22_436_432,
    "deit-b/16-distilled": 87_338_192,
    "deit3-b/16": 86_585_320,
}
SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "num_classes": 5,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_the_official_models(name: str) -> None:
    model = models.build(models.preset(name), device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


@pytest.fixture
def pair() -> tuple[deit.DeiT, Any]:
    timm = oracle("timm")
    theirs = random(timm.create_model("deit_tiny_distilled_patch16_224", **SMALL))
    ours = deit.DeiT(deit.TINY)
    ours.load_state_dict(theirs.state_dict())  # the names are the same
    return ours.eval(), theirs


def test_evaluation_returns_the_mean_of_the_heads_as_timm(pair: tuple[deit.DeiT, Any]) -> None:
    ours, theirs = pair
    torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-5, rtol=1e-5)


def test_both_logits_match_those_that_timm_trains_on(pair: tuple[deit.DeiT, Any]) -> None:
    ours, theirs = pair
    theirs.set_distilled_training(True)
    expected = torch.stack(theirs.train()(images()), dim=1)
    torch.testing.assert_close(ours.train().both_logits(ours.features(images())), expected, atol=1e-5, rtol=1e-5)
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 1e-3
    torch.testing.assert_close(ours(images()), expected.mean(dim=1), atol=1e-5, rtol=1e-5)


def test_other_resolutions_resize_the_table_as_the_official_fine_tuning(pair: tuple[deit.DeiT, Any]) -> None:
    ours, _ = pair
    special, patches = ours.pos_embed[:, :2], ours.pos_embed[:, 2:]
    table_map = patches.reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(table_map, size=(6, 6), mode="bicubic", align_corners=False)
    table = torch.cat([special, resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    larger = deit.DeiT(deit.Config(**{**vars(deit.TINY), "image_size": (48, 48)}))
    larger.load_state_dict(ours.state_dict() | {"pos_embed": table})
    torch.testing.assert_close(ours(images(48, 48)), larger.eval()(images(48, 48)), atol=1e-6, rtol=1e-6)
    assert ours(images(48, 24)).shape == (2, 5)


def test_reset_head_resets_both() -> None:
    model = deit.DeiT(deit.TINY)
    model.reset_head(3)
    assert model.head_dist is not model.head
    assert model.head_dist.weight.data_ptr() != model.head.weight.data_ptr()
    assert model.both_logits(model.features(images())).shape == (2, 2, 3)


def test_deit3_has_no_class_position_and_equals_timm() -> None:
    timm = oracle("timm")
    theirs = random(timm.create_model("deit3_small_patch16_224", **SMALL))
    config = models.preset(
        "deit3-s/16", image_size=32, patch_size=8, num_heads=2, width=32, depth=2, mlp_width=64, num_classes=5
    )
    ours = models.build(config)
    state = {re.sub(r"gamma_(\d)", r"ls\1.gamma", name): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(state)
    torch.testing.assert_close(ours.eval()(images()), theirs(images()), atol=1e-5, rtol=1e-5)
    assert ours.pos_embed.shape == (1, 16, 32)


def test_stochastic_depth_is_constant_in_deit3_and_linear_in_deit() -> None:
    small = {"num_heads": 2, "width": 32, "depth": 3, "mlp_width": 64, "stochastic_depth": 0.2}
    rates = {
        name: [block.drop_path.rate for block in models.build(models.preset(name, **small), device="meta").blocks]
        for name in ("deit-s/16", "deit-s/16-distilled", "deit3-s/16")
    }
    assert rates["deit-s/16"] == rates["deit-s/16-distilled"] == pytest.approx([0, 0.1, 0.2])
    assert rates["deit3-s/16"] == [0.2, 0.2, 0.2]


def test_initial_weights_have_the_standard_deviation_of_deit() -> None:
    torch.manual_seed(0)
    small = {"depth": 2}
    for name in ("deit-ti/16", "deit-ti/16-distilled"):
        model = models.build(models.preset(name, **small))
        for parameter in (model.pos_embed, model.cls_token, model.blocks[0].attn.qkv.weight, model.head.weight):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15)
        assert not model.blocks[0].mlp.fc1.bias.any()
