"""BEiT: published sizes, the index table, timm's class with the same weights, and methods to resize a bias table."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from random_weights import images, random

from vitkit import models
from vitkit.layers import relative_index, relative_rows, resize_relative
from vitkit.layers.relative import geometric_positions
from vitkit.models import beit

COUNTS = {
    "beit-b/16": 86_530_984,
    "beit-b/16-384": 86_744_104,
    "beit-b/16-512": 86_997_544,
    "beit-l/16": 304_430_568,
    "beit-l/16-384": 304_998_888,
    "beit-l/16-512": 305_674_728,
}


def count(name: str) -> int:
    return sum(parameter.numel() for parameter in models.build(models.preset(name), device="meta").parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_the_official_models(name: str) -> None:
    assert count(name) == COUNTS[name]
    assert count(name.replace("beit", "beitv2")) == COUNTS[name] if "-384" not in name and "-512" not in name else True


def test_parameters_of_masked_image_modelling() -> None:
    # transformers' class also has the mask token, the head over 8192 visual tokens and a second final norm.
    assert count("beit-b/16-pt") + 768 + (768 + 1) * 8192 + 2 * 768 == 91_967_312


def test_index_table_of_the_original() -> None:
    index = relative_index((14, 14))
    assert relative_rows((14, 14)) == 732
    assert [relative_rows((side, side)) for side in (24, 32, 40)] == [2212, 3972, 6244]
    assert (index[1:, 1:].diagonal() == 364).all()
    assert index[1, -1] == 0
    assert index[-1, 1] == 728
    assert index[1, 2] == 363
    assert (index[0, 1:] == 729).all()
    assert (index[1:, 0] == 730).all()
    assert index[0, 0] == 731


def test_index_of_a_non_square_grid_against_a_loop() -> None:
    rows, columns = 2, 3
    index = relative_index((rows, columns))
    positions = [(r, c) for r in range(rows) for c in range(columns)]
    for q, (r, c) in enumerate(positions, start=1):
        for k, (s, t) in enumerate(positions, start=1):
            assert index[q, k] == (r - s + rows - 1) * (2 * columns - 1) + (c - t + columns - 1)
    assert sorted(set(index.flatten().tolist())) == list(range(relative_rows((rows, columns))))


def theirs_and_ours(**arguments: Any) -> tuple[beit.BEiT, Any]:
    timm = oracle("timm")
    small = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 2,
        "num_classes": 5,
    }
    theirs = random(timm.create_model("beit_base_patch16_224", **{**small, **arguments}))
    config = dataclasses.replace(
        beit.TINY,
        depth=3,
        relative="shared"
        if arguments.get("use_shared_rel_pos_bias")
        else "blocks"
        if arguments.get("use_rel_pos_bias", True)
        else "none",
        position="learned" if arguments.get("use_abs_pos_emb") else "none",
        pool=arguments.get("global_pool", "gap"),
        layer_scale=arguments.get("init_values", 0.1) or None,
    )
    ours = beit.BEiT(config)
    state = {re.sub(r"gamma_(\d)", r"ls\1.gamma", name): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(state)
    return ours.eval(), theirs


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"},
        {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "init_values": 0},
    ],
    ids=["blocks", "shared", "absolute"],
)
def test_logits_equal_timm(arguments: dict[str, Any]) -> None:
    ours, theirs = theirs_and_ours(**arguments)
    torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:.*searchsorted")  # inside timm
@pytest.mark.parametrize("size", [(48, 48), (64, 40)], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_other_resolutions_equal_timm_with_its_resize_method(size: tuple[int, int], shared: bool) -> None:
    ours, theirs = theirs_and_ours(
        **({"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"} if shared else {})
    )
    ours.config = dataclasses.replace(ours.config, relative_resize="geometric_linear")
    theirs.set_input_size(img_size=size)
    torch.testing.assert_close(ours(images(*size)), theirs(images(*size)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((14, 14), (24, 24)), ((6, 6), (4, 7)), ((5, 3), (5, 8))])
def test_geometric_resize_is_the_cubic_spline_of_scipy(old: tuple[int, int], new: tuple[int, int]) -> None:
    interpolate = oracle("scipy.interpolate")
    table = torch.randn(relative_rows(old), 2, generator=torch.Generator().manual_seed(0))
    resized = resize_relative(table, old, new, "geometric")
    assert torch.equal(resized[-3:], table[-3:])
    sizes = [(2 * grid[0] - 1, 2 * grid[1] - 1) for grid in (old, new)]
    positions = [
        geometric_positions(m, n).numpy() if m != n else np.arange(m) - m // 2 for m, n in zip(*sizes, strict=True)
    ]
    targets = [np.clip(np.arange(n) - n // 2, at[0], at[-1]) for n, at in zip(sizes[1], positions, strict=True)]
    for head in range(2):
        values = table[:-3, head].reshape(sizes[0]).numpy().astype(np.float64)
        spline = interpolate.RectBivariateSpline(*positions, values, s=0)
        np.testing.assert_allclose(resized[:-3, head].reshape(sizes[1]), spline(*targets), atol=1e-5)


def test_geometric_positions_reach_the_new_end_in_growing_steps() -> None:
    positions = geometric_positions(27, 47)
    assert positions[13] == 0
    assert positions[-1].item() == pytest.approx(23, abs=1e-3)
    ratios = positions.diff()[14:] / positions.diff()[13:-1]
    assert ratios.min().item() == pytest.approx(ratios.max().item())
    assert torch.equal(positions, -positions.flip(0))


@pytest.mark.parametrize("method", ["geometric", "geometric_linear", "bilinear"])
def test_resizing_preserves_a_constant_table_and_the_native_grid(method: str) -> None:
    table = torch.randn(relative_rows((4, 5)), 3)
    assert resize_relative(table, (4, 5), (4, 5), method) is table
    constant = torch.full((relative_rows((4, 5)), 3), 2.5)
    resized = resize_relative(constant, (4, 5), (7, 3), method)
    torch.testing.assert_close(resized, torch.full((relative_rows((7, 3)), 3), 2.5))
    with pytest.raises(ValueError, match=r"does not fit a grid of 5x5"):
        resize_relative(table, (5, 5), (4, 4), method)


def test_attention_weights_match_forward() -> None:
    ours = random(models.build(beit.TINY))
    seen: list[torch.Tensor] = []
    block = ours.blocks[1]
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(block.attention_weights(*args)))
    ours(images())
    handle.remove()
    plain = block.attention_weights(ours.embed(images()).tokens)
    assert torch.allclose(seen[0].sum(-1), torch.ones(()))
    assert seen[0].shape == plain.shape == (2, 2, 17, 17)


def test_masked_patches_are_replaced_before_the_blocks() -> None:
    # As in the objective: the mask token replaces embedded patches, then `encode`.
    ours = random(models.build(dataclasses.replace(beit.TINY, relative="shared", pool="token", num_classes=0)))
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3:9] = True
    token = torch.randn(32)

    def encoded_patches(images: torch.Tensor) -> torch.Tensor:
        embedded = ours.embed(images)
        patches = torch.where(mask[..., None], token, embedded.patches)
        return ours.encode(embedded.with_tokens(torch.cat([embedded.special, patches], dim=1))).patches

    other = images().clone()
    other[:, :, 0:8, 24:32] += 1  # the fourth patch, which is masked
    torch.testing.assert_close(encoded_patches(images()), encoded_patches(other))


def test_initial_weights_shrink_with_depth() -> None:
    torch.manual_seed(0)
    config = models.preset("beit-b/16", depth=4, num_heads=3, width=96, mlp_width=384)
    model = models.build(config)
    for number in (1, 4):
        std = model.blocks[number - 1].get_parameter("mlp.fc2.weight").std().item()
        assert std == pytest.approx(0.02 / (2 * number) ** 0.5, rel=0.03)
    assert model.get_parameter("head.weight").std().item() == pytest.approx(2e-5, rel=0.1)
    pretraining = models.build(dataclasses.replace(config, relative="shared", pool="token", num_classes=0))
    assert pretraining.get_parameter("blocks.0.attn.qkv.weight").abs().max().item() <= 0.02
