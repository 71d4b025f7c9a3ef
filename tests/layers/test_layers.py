"""Layers against naive formulas; methods to resize positions against the libraries that they come from."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import oracle
from scipy import ndimage

from vitkit.layers import (
    MLP,
    RESIZES,
    Attention,
    Block,
    DropPath,
    Features,
    MapPool,
    PatchEmbed,
    activation,
    init_layers,
    init_lecun,
    resize_positions,
    sincos2d,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("qk_norm_eps", [None, 1e-6])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_weights_match_the_fused_kernel(qk_norm_eps: float | None, with_bias: bool) -> None:
    attention = Attention(24, 3, qk_norm_eps=qk_norm_eps).eval()
    x = torch.randn(2, 7, 24)
    bias = torch.randn(3, 7, 7) if with_bias else None
    weights = attention.weights(x, bias)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))
    _, _, v = attention.heads(x)
    by_hand = attention.proj((weights @ v).transpose(1, 2).reshape(2, 7, 24))
    torch.testing.assert_close(attention(x, bias), by_hand, atol=1e-6, rtol=1e-5)


def test_attention_bias_can_be_a_mask() -> None:
    attention = Attention(16, 2).eval()
    x = torch.randn(1, 5, 16)
    mask = torch.zeros(5, 5)
    mask[:, 3:] = -math.inf
    torch.testing.assert_close(attention(x, mask)[:, :3], attention(x[:, :3]), atol=1e-6, rtol=1e-5)


def test_attention_rejects_a_width_that_is_not_a_multiple_of_the_heads() -> None:
    with pytest.raises(ValueError, match=r"width 10 is not a multiple of the number of heads 3"):
        Attention(10, 3)


def test_block_adds_two_residual_branches() -> None:
    block = Block(Attention(16, 2), MLP(16, 32), width=16, layer_scale=0.5).eval()
    x = torch.randn(2, 4, 16)
    middle = x + 0.5 * block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), middle + 0.5 * block.mlp(block.norm2(middle)))
    torch.testing.assert_close(block.attention_weights(x), block.attn.weights(block.norm1(x)))


def test_drop_path_preserves_the_mean_and_drops_samples() -> None:
    drop = DropPath(0.25)
    x = torch.ones(20_000, 3)
    assert drop.eval()(x) is x
    dropped = drop.train()(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (dropped.min(dim=1).values == dropped.max(dim=1).values).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_gelu_and_its_tanh_approximation_differ_by_the_known_gap() -> None:
    x = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    gap = (activation("gelu")(x) - activation("gelu_tanh")(x)).abs().max().item()
    assert gap == pytest.approx(4.73e-4, abs=1e-6)
    with pytest.raises(ValueError, match=r"unknown activation 'gelo'"):
        activation("gelo")


def test_patch_embedding_is_a_linear_layer_over_pixels() -> None:
    embed = PatchEmbed(3, 8, (4, 6))
    images = torch.randn(2, 3, 9, 13)
    out = embed(images)
    assert out.shape == (2, 8, 2, 2)
    patch = images[1, :, 4:8, 6:12].reshape(-1)
    torch.testing.assert_close(out[1, :, 1, 1], embed.proj.weight.reshape(8, -1) @ patch + embed.proj.bias)
    with pytest.raises(ValueError, match=r"takes images with 3 channels, but the images have 1"):
        embed(images[:, :1])
    with pytest.raises(ValueError, match=r"3x13 pixels is smaller than one patch of 4x6"):
        embed(images[:, :, :3])


def test_map_pool_is_attention_with_one_query() -> None:
    pool = MapPool(16, 2, 32).eval()
    init_layers(pool)
    x = torch.randn(3, 5, 16)
    q = pool.q(pool.latent)[0, 0].reshape(2, 8)
    k, v = pool.kv(x).reshape(3, 5, 2, 2, 8).unbind(2)
    weights = torch.einsum("hk,bnhk->bhn", q, k).div(math.sqrt(8)).softmax(-1)
    y = pool.proj(torch.einsum("bhn,bnhk->bhk", weights, v).reshape(3, 16))
    torch.testing.assert_close(pool(x), y + pool.mlp(pool.norm(y)), atol=1e-6, rtol=1e-5)


def test_features_split_into_class_token_special_tokens_and_map() -> None:
    features = Features(tokens=torch.arange(2 * 8 * 3.0).reshape(2, 8, 3), grid=(2, 3), num_special=2)
    assert torch.equal(features.class_token, features.tokens[:, 0])
    assert features.special.shape == (2, 2, 3)
    assert torch.equal(features.map[0, :, 1, 2], features.tokens[0, 2 + 5])
    with pytest.raises(ValueError, match=r"no class token"):
        _ = Features(tokens=torch.zeros(1, 6, 3), grid=(2, 3)).class_token


def test_sincos_table_matches_its_formula() -> None:
    table = sincos2d((3, 4), 16)
    for row in range(3):
        for column in range(4):
            for k in range(4):
                omega = 1 / 10_000 ** (k / 3)
                angles = (column * omega, row * omega)
                values = [function(angle) for angle in angles for function in (math.sin, math.cos)]
                for part, value in enumerate(values):
                    assert table[row * 4 + column, part * 4 + k].item() == pytest.approx(value, abs=1e-6)
    with pytest.raises(ValueError, match=r"multiple of 4"):
        sincos2d((2, 2), 18)


SIZES = [((4, 4), (6, 6)), ((14, 14), (24, 24)), ((7, 7), (12, 5)), ((3, 5), (4, 9)), ((8, 8), (3, 3))]


@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_resize_as_scipy_for_google(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = torch.randn(math.prod(old), 6)
    table_map = table.reshape(*old, 6).numpy()
    # The original calls zoom with its default mode, which sets borders to zero for some sizes; "nearest" does not.
    expected = ndimage.zoom(table_map, (new[0] / old[0], new[1] / old[1], 1), order=1, mode="nearest")
    ours = resize_positions(table, old, new, "bilinear_corners")
    np.testing.assert_allclose(ours.numpy(), expected.reshape(-1, 6), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_resize_as_timm(old: tuple[int, int], new: tuple[int, int]) -> None:
    timm_layers = oracle("timm.layers")

    table = torch.randn(math.prod(old), 6)
    expected = timm_layers.resample_abs_pos_embed(table[None], list(new), list(old), num_prefix_tokens=0)[0]
    assert torch.equal(resize_positions(table, old, new, "bicubic_antialias"), expected)


@pytest.mark.parametrize(("old", "new"), SIZES, ids=str)
def test_resize_as_hugging_face_and_dino(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = torch.randn(math.prod(old), 6)
    table_map = table.reshape(1, *old, 6).permute(0, 3, 1, 2)
    plain = F.interpolate(table_map, size=new, mode="bicubic", align_corners=False)
    torch.testing.assert_close(resize_positions(table, old, new, "bicubic"), plain.permute(0, 2, 3, 1).reshape(-1, 6))
    scale = tuple((n + 0.1) / o for n, o in zip(new, old, strict=True))
    offset = F.interpolate(table_map, scale_factor=scale, mode="bicubic")
    ours = resize_positions(table, old, new, "bicubic_offset")
    torch.testing.assert_close(ours, offset.permute(0, 2, 3, 1).reshape(-1, 6))
    assert ours.shape[0] == math.prod(new)
    assert not torch.equal(ours, resize_positions(table, old, new, "bicubic"))


@pytest.mark.parametrize("method", RESIZES)
def test_resizing_to_the_same_grid_returns_the_table_and_dtypes_are_preserved(method: str) -> None:
    table = torch.randn(12, 4)
    assert resize_positions(table, (3, 4), (3, 4), method) is table
    assert resize_positions(table.bfloat16(), (3, 4), (5, 5), method).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"does not fit a grid of 5x5"):
        resize_positions(table, (5, 5), (6, 6), method)


def test_an_unknown_resize_method_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"unknown resize method 'nearest' for position embeddings"):
        resize_positions(torch.zeros(4, 4), (2, 2), (3, 3), "nearest")


def test_initialization_has_the_standard_deviation_of_the_original() -> None:
    attention = Attention(256, 4)
    init_layers(attention)
    bound = math.sqrt(3 / 256)
    for part in attention.qkv.weight.chunk(3):
        assert part.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert (attention.qkv.bias == 0).all()
    embed = PatchEmbed(3, 512, (16, 16))
    init_lecun(embed.proj)
    assert embed.proj.weight.std().item() == pytest.approx(math.sqrt(1 / 768), rel=0.01)
    assert embed.proj.weight.abs().max().item() <= 2 * math.sqrt(1 / 768) / 0.8796
