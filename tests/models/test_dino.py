"""DINO, DINOv2 and DINOv3: published sizes, DINO's own interpolation, rotations, timm's classes."""

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import oracle
from random_weights import images, random
from torch import Tensor

from vitkit import models
from vitkit.layers import axial_rotation, rotary_periods, rotate
from vitkit.models import dino, dinov3

# Without the mask token, which belongs to the objective.
COUNTS = {
    "dino-s/16": 21_665_664,
    "dino-s/8": 21_670_272,
    "dino-b/16": 85_798_656,
    "dino-b/8": 85_807_872,
    "dinov2-s/14": 22_056_192,
    "dinov2-b/14-reg": 86_583_552 - 768,  # counted with the mask token
    "dinov2-g/14": 1_136_480_768 - 1536,
    "dinov3-s/16": 21_596_544 - 384,
}


def count(config: Any) -> int:
    return sum(parameter.numel() for parameter in models.build(config, device="meta").parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_the_official_models(name: str) -> None:
    assert count(models.preset(name)) == COUNTS[name]


def test_parameters_of_timm_s_layouts() -> None:
    # timm adds the class token's position to the token itself, and leaves out the biases of DINOv3.
    assert count(models.preset("dinov2-s/14-reg", position_tokens="patches")) == 22_057_344
    assert count(models.preset("dinov3-s+/16", qkv_bias=False)) == 28_683_264


def interpolated(table: Tensor, patches: int, rows: int, columns: int) -> Tensor:
    """DINO's own code: a scale factor of (n + 0.1) / sqrt(N) per side; the class row does not change."""
    side = int(math.sqrt(table.shape[1] - 1))
    if patches == side * side and rows == columns:
        return table
    table_map = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((rows + 0.1) / math.sqrt(side * side), (columns + 0.1) / math.sqrt(side * side))
    resized = F.interpolate(table_map, scale_factor=factors, mode="bicubic")
    assert resized.shape[-2:] == (rows, columns)
    return torch.cat([table[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def test_dino_positions_match_its_own_interpolation() -> None:
    model = random(models.build(models.preset("dino-s/16", depth=1)))
    native = model.positions((14, 14))
    assert torch.equal(native, model.pos_embed)
    # 96-pixel crops, the 480 x 480 images of the attention figures, and two that are not square.
    for grid in ((6, 6), (30, 30), (20, 9), (7, 28)):
        assert torch.equal(model.positions(grid), interpolated(model.pos_embed, grid[0] * grid[1], *grid)), grid
    other = F.interpolate(native[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2), size=(6, 6), mode="bicubic")
    assert (model.positions((6, 6))[:, 1:] - other.permute(0, 2, 3, 1).flatten(1, 2)).abs().max() > 1e-3


def test_dinov2_with_registers_resizes_to_the_size_with_antialiasing() -> None:
    config = dataclasses.replace(models.preset("dinov2-s/14-reg"), depth=1)
    model = random(models.build(config))
    table_map = model.pos_embed[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(table_map, size=(16, 16), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    assert torch.equal(model.positions((16, 16))[:, 1:], resized)
    embedded = model.embed(torch.randn(1, 3, 224, 224))
    assert embedded.num_special == 5
    assert torch.equal(embedded.tokens[0, 1:5], model.reg_token[0])  # no positions for registers
    assert torch.equal(embedded.tokens[0, 0], (model.cls_token + model.pos_embed[:, :1])[0, 0])


def test_dinov2_equals_timm() -> None:
    timm = oracle("timm")
    small: dict[str, Any] = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2}
    gated = random(timm.create_model("vit_giant_patch14_dinov2", **small, num_classes=0))
    width = gated.blocks[0].mlp.fc2.in_features
    config = models.preset("dinov2-g/14", image_size=28, depth=2, num_heads=2, width=32, mlp_width=width, norm_eps=1e-6)
    ours = models.build(config)
    ours.load_state_dict(gated.state_dict())
    torch.testing.assert_close(ours.eval()(images(28, 28)), gated(images(28, 28)), atol=1e-5, rtol=1e-5)


def test_rotary_periods_of_dinov3() -> None:
    periods = rotary_periods(64)
    torch.testing.assert_close(periods, torch.tensor([100 ** (k / 16) for k in range(16)]))
    assert periods[0] == 1
    assert periods[-1].item() == pytest.approx(74.99, abs=0.01)
    with pytest.raises(ValueError, match="head width 6 is not a multiple of 4"):
        rotary_periods(6)


def test_rotation_against_a_loop() -> None:
    rows, columns, width = 2, 3, 8
    x = torch.randn(1, 1, 2 + rows * columns, width, dtype=torch.float64)
    rotated = rotate(x, axial_rotation((rows, columns), width).double())
    assert torch.equal(rotated[:, :, :2], x[:, :, :2])  # special tokens
    for index in range(rows * columns):
        r, c = divmod(index, columns)
        for channel in range(width // 2):
            axis = (r + 0.5) / rows if channel < width // 4 else (c + 0.5) / columns
            angle = 2 * math.pi * (2 * axis - 1) / 100 ** ((channel % (width // 4)) / (width // 4))
            a, b = x[0, 0, 2 + index, channel], x[0, 0, 2 + index, channel + width // 2]
            expected = torch.stack(
                [a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle)]
            )
            torch.testing.assert_close(rotated[0, 0, 2 + index, channel :: width // 2], expected, atol=1e-5, rtol=1e-5)


def test_a_logit_depends_on_the_relative_position_only() -> None:
    q, k = torch.randn(2, 16)
    rotation = axial_rotation((5, 5), 16)
    queries = rotate(q.expand(1, 1, 25, 16), rotation)[0, 0]
    keys = rotate(k.expand(1, 1, 25, 16), rotation)[0, 0]
    logits = (queries @ keys.T).reshape(5, 5, 5, 5)
    torch.testing.assert_close(logits[1, 1, 3, 2], logits[0, 2, 2, 3], atol=1e-4, rtol=1e-4)
    assert (logits[1, 1, 3, 2] - logits[1, 1, 2, 3]).abs() > 1e-3


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3"])
@pytest.mark.parametrize("size", [(32, 32), (48, 40)], ids=str)
def test_dinov3_equals_timm(name: str, size: tuple[int, int]) -> None:
    timm = oracle("timm")
    theirs = random(
        timm.create_model(
            name, img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="token"
        )
    )
    gated, biased = "plus" in name, "qkvb" in name
    config = dataclasses.replace(
        dinov3.TINY, num_classes=0, num_registers=4, mlp_width=128, mlp="swiglu" if gated else "mlp", qkv_bias=biased
    )
    ours = models.build(config)
    state = {re.sub(r"gamma_(\d)", r"ls\1.gamma", key): tensor for key, tensor in theirs.state_dict().items()}
    for key in [key for key in state if "fc1_g" in key]:
        state[key.replace("fc1_g", "fc1")] = torch.cat([state.pop(key), state.pop(key.replace("fc1_g", "fc1_x"))])
    ours.load_state_dict(state)
    torch.testing.assert_close(ours.eval()(images(*size)), theirs(images(*size)), atol=1e-5, rtol=1e-5)


def test_positions_are_scaled_in_training_only() -> None:
    model = dinov3.DINOv3(dinov3.TINY)
    fixed = model.eval().rotation((4, 4), torch.device("cpu"))
    assert torch.equal(fixed, model.rotation((4, 4), torch.device("cpu")))
    model.train()
    torch.manual_seed(0)
    sampled = torch.stack([model.rotation((4, 4), torch.device("cpu")) for _ in range(200)])
    # The first angle of the last patch: 2 pi times 3/4 times the factor, divided by the longest period of this head.
    angles = torch.atan2(sampled[:, 1, -1, 3], sampled[:, 0, -1, 3])
    factors = angles / torch.atan2(fixed[1, -1, 3], fixed[0, -1, 3])
    assert 0.5 <= factors.min() < 0.55
    assert 1.8 < factors.max() <= 2.0
    assert factors.log2().mean().item() == pytest.approx(0, abs=0.1)


def test_class_tokens_and_mean_are_concatenated() -> None:
    model = random(models.build(dino.TINY))
    features = model.features(images())
    assert features.earlier is not None  # the class token of the block before the last
    expected = torch.cat([features.earlier[:, 0], features.tokens[:, 0], features.patches.mean(dim=1)], dim=1)
    assert torch.equal(model.represent(features), expected)
    assert model.pool_width == 3 * 32
