"""Hybrids against the logits of the original code, timm's classes, and the formulas of their stem in numpy."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import oracle
from slow_cases import slow_except
from torch import Tensor

from vitkit import models
from vitkit.layers import MaxPoolSame, StdConv, resnet_stride, same_padding
from vitkit.models import hybrid, vit

TIMM = {
    "vit_tiny_r_s16_p8_224": "r+vit-ti/16",
    "vit_small_r26_s32_224": "r26+vit-s/32",
    "vit_base_r26_s32_224": "r26+vit-b/32",
    "vit_base_r50_s16_224": "r50+vit-b/16",
    "vit_large_r50_s32_224": "r50+vit-l/32",
}
TIMM_EPSILONS = {
    "weight_eps": 1e-8,
    "weight_eps_on": "variance",
    "group_norm_eps": 1e-5,
    "position_resize": "bicubic_antialias",
}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "grid", "map_width"),
    [
        ("r+vit-ti/16", 6_337_704, (7, 7), 64),
        ("r26+vit-s/32", 36_431_912, (7, 7), 2048),
        ("r26+vit-b/32", 101_383_976, (7, 7), 2048),
        ("r50+vit-b/16", 98_659_112, (14, 14), 1024),
        ("r50+vit-l/32", 328_994_856, (7, 7), 2048),
    ],
)
def test_parameter_counts_of_the_original(name: str, parameters: int, grid: tuple[int, int], map_width: int) -> None:
    model = models.build(models.preset(name), device="meta")
    assert count(model) == parameters
    assert model.config.grid == grid
    assert model.patch_embed.proj.in_channels == map_width


def test_stem_counts_and_the_two_ways_to_a_stride_of_16() -> None:
    # R50+L/16 and R50+B/32 have no published count: it is that of the ResNet plus a ViT with 1x1 patches.
    stems = {(): 9_536, (2, 2, 2, 2): 13_946_176, (3, 4, 9): 11_894_848, (3, 4, 6, 3): 23_508_032}
    for config in hybrid.PRESETS.values():
        model = models.build(config, device="meta")
        assert count(model.patch_embed.backbone) == stems[config.depths]
    extended, regular = models.preset("r50+vit-l/16"), models.preset("r50+vit-l/32")
    assert sum(extended.depths) == sum(regular.depths)
    assert (extended.stride, regular.stride) == (16, 32)
    assert extended.map_patch == regular.map_patch == (1, 1)


@pytest.mark.parametrize(("timm_name", "name"), TIMM.items())
def test_names_and_shapes_match_timm(timm_name: str, name: str) -> None:
    timm = oracle("timm")

    with torch.device("meta"):
        theirs = timm.create_model(timm_name, num_classes=1000).state_dict()
    ours = models.build(models.preset(name), device="meta").state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    "timm_name",
    slow_except(["vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224", "vit_base_r50_s16_224"], "vit_tiny_r_s16_p8_224"),
)
def test_equals_timm_with_its_epsilons(timm_name: str) -> None:
    timm = oracle("timm")

    torch.manual_seed(0)
    sizes = {"num_heads": 4, "depth": 2, "num_classes": 7}
    theirs = timm.create_model(timm_name, img_size=96, embed_dim=64, dynamic_img_size=True, **sizes).eval()
    _perturb(theirs)
    config = models.preset(TIMM[timm_name], image_size=96, **sizes, width=64, mlp_width=256, **TIMM_EPSILONS)
    ours = models.build(config, initialize=False).eval()
    ours.load_state_dict(theirs.state_dict())
    for rows, columns in [(96, 96), (128, 192)]:
        images = torch.randn(2, 3, rows, columns)
        with torch.no_grad():
            expected = theirs(images)
            torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=0)
        assert expected.std() > 0.1


def _perturb(model: torch.nn.Module) -> None:
    """Adds noise to all weights, also to zero heads and norms."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "norm3" in name or "head" in name else 0.05))


@pytest.mark.parametrize("name", ["hybrid_root_only", "hybrid_2_2", "hybrid_1_1_1_odd_size"])
def test_equals_the_original_code(shared: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = shared / "oracles" / "vit_jax"
    with np.load(folder / f"{name}.npz") as file:
        weights = {key: torch.from_numpy(file[key]) for key in file.files}
    with np.load(folder / f"{name}.io.npz") as file:
        images, logits = torch.from_numpy(file["images_nhwc"]).permute(0, 3, 1, 2), torch.from_numpy(file["logits"])
    config = _config_of(weights, images.shape[-1])
    model = models.build(config, initialize=False).eval()
    model.load_state_dict(_from_original(weights, config))
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits, atol=1e-4, rtol=0)
    # The comparison detects PyTorch's padding.
    monkeypatch.setattr("vitkit.layers.resnet.same_padding", lambda *sizes: same_padding(*sizes)[::-1])
    with torch.no_grad():
        assert (model(images) - logits).abs().max() > 1e-3


def _config_of(weights: dict[str, Tensor], size: int) -> hybrid.Config:
    units = [match.groups() for key in weights if (match := re.fullmatch(r"block(\d)/unit(\d)/conv1/kernel", key))]
    depths = tuple(sum(int(block) == stage for block, _ in units) for stage in range(1, len({b for b, _ in units}) + 1))
    patch = weights["embedding/kernel"].shape[0] * resnet_stride(depths)
    width, num_heads, _ = weights["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"].shape
    return hybrid.Config(
        image_size=(size, size),
        patch_size=(patch, patch),
        width=width,
        depth=sum(key.endswith("LayerNorm_0/scale") for key in weights),
        num_heads=num_heads,
        mlp_width=weights["Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias"].shape[0],
        num_classes=weights["head/bias"].shape[0],
        activation="gelu_tanh",
        depths=depths,
        stem_width=weights["conv_root/kernel"].shape[-1],
    )


def _from_original(weights: dict[str, Tensor], config: hybrid.Config) -> dict[str, Tensor]:
    """Renames the arrays of the original; independent of the checkpoint formats."""
    state: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    stem = "patch_embed.backbone.stem" if config.depths else "patch_embed.backbone"
    names = [
        (r"conv_root/", f"{stem}.conv."),
        (r"gn_root/", f"{stem}.norm."),
        (
            r"block(\d)/unit(\d)/",
            lambda match: f"patch_embed.backbone.stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.",
        ),
        (r"conv_proj/", "downsample.conv."),
        (r"gn_proj/", "downsample.norm."),
        (r"gn(\d)/", r"norm\1."),
        (r"conv(\d)/", r"conv\1."),
        (r"^embedding/", "patch_embed.proj."),
        (r"^cls$", "cls_token"),
        (r"Transformer/posembed_input/pos_embedding", "pos_embed"),
        (r"Transformer/encoder_norm/", "norm."),
        (r"Transformer/encoderblock_(\d+)/", r"blocks.\1."),
        (r"LayerNorm_0/", "norm1."),
        (r"LayerNorm_2/", "norm2."),
        (r"MlpBlock_3/Dense_0/", "mlp.fc1."),
        (r"MlpBlock_3/Dense_1/", "mlp.fc2."),
        (r"MultiHeadDotProductAttention_1/out/", "attn.proj."),
        (r"^head/", "head."),
        (r"(kernel|scale)$", "weight"),
    ]
    for key, value in weights.items():
        if match := re.search(r"encoderblock_(\d+)/MultiHead.*/(query|key|value)/(kernel|bias)", key):
            leaf = "weight" if match[3] == "kernel" else "bias"
            flat = value.flatten(1).T if leaf == "weight" else value.flatten()
            fused.setdefault(f"blocks.{match[1]}.attn.qkv.{leaf}", {})[match[2]] = flat
            continue
        if key.endswith("out/kernel"):
            value = value.flatten(0, 1).T
        elif value.ndim == 4:
            value = value.permute(3, 2, 0, 1)
        elif key.endswith("kernel"):
            value = value.T
        for pattern, replacement in names:
            key = re.sub(pattern, replacement, key)
        state[key] = value
    for key, parts in fused.items():
        state[key] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return state


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 12, 33, 66])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 1), (1, 2), (8, 8)])
def test_same_padding_matches_tensorflow(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    steps = len(range(0, size, stride))  # one output per started stride
    assert (before + size + after - kernel) // stride + 1 == steps
    assert 0 <= after - before <= 1


def test_same_convolution_and_pooling_against_loops() -> None:
    torch.manual_seed(0)
    for size, kernel, stride in [((6, 9), 7, 2), ((8, 5), 3, 2), ((7, 6), 3, 1), ((5, 4), 1, 2)]:
        x = torch.randn(1, 2, *size, dtype=torch.float64)
        conv = StdConv(2, 3, kernel, stride).double()
        filters = conv.standardized_weight().detach().numpy()
        expected = [
            np.stack([(window * kernel_filter).sum() for kernel_filter in filters])
            for window in _windows(x[0].numpy(), kernel, stride, 0.0)
        ]
        np.testing.assert_allclose(conv(x)[0].detach().flatten(1).T.numpy(), np.stack(expected), atol=1e-12)
        expected = [window.max(axis=(1, 2)) for window in _windows(x[0].numpy(), kernel, stride, -np.inf)]
        np.testing.assert_allclose(MaxPoolSame(kernel, stride)(x)[0].flatten(1).T.numpy(), np.stack(expected))


def _windows(x: np.ndarray, kernel: int, stride: int, value: float) -> list[np.ndarray]:
    """Returns all windows in row-major order, padded as in TensorFlow: (ceil(n/s) - 1) s + k - n, less before."""
    starts = []
    for size in x.shape[1:]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        starts.append([step * stride - total // 2 for step in range(-(-size // stride))])
    windows = []
    for top in starts[0]:
        for left in starts[1]:
            window = np.full((x.shape[0], kernel, kernel), value)
            for row in range(kernel):
                for column in range(kernel):
                    if 0 <= top + row < x.shape[1] and 0 <= left + column < x.shape[2]:
                        window[:, row, column] = x[:, top + row, left + column]
            windows.append(window)
    return windows


def test_an_odd_padding_has_one_more_after() -> None:
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(112, 3, 2) == (0, 1)
    assert same_padding(56, 3, 1) == (1, 1)


@pytest.mark.parametrize("eps_on", ["std", "variance"])
def test_standardized_weights_match_their_formula(eps_on: str) -> None:
    conv = StdConv(4, 6, 3, eps=0.1, eps_on=eps_on)
    weight = conv.weight.detach().double().numpy()
    mean, variance = weight.mean(axis=(1, 2, 3), keepdims=True), weight.var(axis=(1, 2, 3), keepdims=True)
    deviation = np.sqrt(variance) + 0.1 if eps_on == "std" else np.sqrt(variance + 0.1)
    np.testing.assert_allclose(conv.standardized_weight().detach().numpy(), (weight - mean) / deviation, atol=1e-6)


def test_a_bottleneck_starts_as_its_shortcut() -> None:
    model = models.build(hybrid.TINY)
    unit = model.patch_embed.backbone.stages[0].blocks[1]
    x = torch.randn(2, 32, 5, 4)
    assert torch.equal(unit(x), x.relu())


def test_config_grid_equals_the_grid_of_the_features() -> None:
    for size in [(32, 32), (33, 50), (36, 32), (47, 64)]:
        config = models.configs.override(hybrid.TINY, {"image_size": size})
        model = models.build(config).eval()
        assert model.features(torch.randn(1, 3, *size)).grid == config.grid


def test_unsupported_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"patch_size \(16, 16\) is not a multiple of the ResNet's stride 32"):
        hybrid.Config(depths=(3, 4, 6, 3))
    with pytest.raises(ValueError, match=r"every stage needs at least 1"):
        hybrid.Config(depths=(3, 0, 6))
    with pytest.raises(ValueError, match=r"stem_width 48 is not a positive multiple of num_groups 32"):
        hybrid.Config(stem_width=48)
    with pytest.raises(ValueError, match=r"init='truncated' cannot initialize a ResNet"):
        hybrid.Config(init="truncated")
    with pytest.raises(ValueError, match=r"takes images with 3 channels, but the images have 1"):
        models.build(hybrid.TINY)(torch.zeros(1, 1, 36, 32))
    assert isinstance(models.build(hybrid.TINY, device="meta"), vit.ViT)
