"""AxialResNet: attention against loops over pairs of positions, parameter counts of the published code."""

import numpy as np
import pytest
import torch

from vitkit import models
from vitkit.layers import RelativeLineAttention
from vitkit.models import axial_resnet


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def attention(width: int = 8, num_heads: int = 2, length: int = 5) -> RelativeLineAttention:
    """Returns a layer with random weights and statistics, in double precision."""
    layer = RelativeLineAttention(width, num_heads, length).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + ("var" in name))
    return layer


def naive(layer: RelativeLineAttention, x: np.ndarray) -> np.ndarray:
    """Evaluates the formula of the docstring for one pair of positions at a time."""
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    heads, (lines, width, length) = layer.num_heads, x.shape
    value_width = width // heads
    half = value_width // 2
    qkv = _normalize(layer, "norm_qkv", np.einsum("oc,bcn->bon", weights["qkv.weight"][:, :, 0], x))
    qkv = qkv.reshape(lines, heads, 2 * value_width, length)
    q, k, v = qkv[:, :, :half], qkv[:, :, half : 2 * half], qkv[:, :, 2 * half :]
    parts = np.zeros((3, lines, heads, length, length))
    middle = length - 1
    relative = weights["relative"]
    for line in range(lines):
        for head in range(heads):
            for i in range(length):
                for j in range(length):
                    query, key = q[line, head, :, i], k[line, head, :, j]
                    parts[0, line, head, i, j] = query @ key
                    parts[1, line, head, i, j] = query @ relative[:half, middle + i - j]
                    parts[2, line, head, i, j] = key @ relative[half : 2 * half, middle + j - i]
    stacked = _normalize(layer, "norm_logits", np.concatenate(list(parts), axis=1))
    logits = sum(stacked[:, part * heads : (part + 1) * heads] for part in range(3))
    a = np.exp(logits - logits.max(axis=-1, keepdims=True))
    a /= a.sum(axis=-1, keepdims=True)
    out = np.zeros((lines, heads, value_width, 2, length))
    for line in range(lines):
        for head in range(heads):
            for i in range(length):
                for j in range(length):
                    weight = a[line, head, i, j]
                    out[line, head, :, 0, i] += weight * v[line, head, :, j]
                    out[line, head, :, 1, i] += weight * relative[2 * half :, middle + i - j]
    out = _normalize(layer, "norm_out", out.reshape(lines, 2 * width, length))
    return out.reshape(lines, width, 2, length).sum(axis=2)


def _normalize(layer: RelativeLineAttention, name: str, x: np.ndarray) -> np.ndarray:
    norm = getattr(layer, name)
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes) if layer.training else norm.running_mean.numpy()
    variance = x.var(axis=axes) if layer.training else norm.running_var.numpy()
    scale = norm.weight.detach().numpy() / np.sqrt(variance + norm.eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - mean.reshape(shape)) * scale.reshape(shape) + norm.bias.detach().numpy().reshape(shape)


@pytest.mark.parametrize("training", [False, True])
def test_relative_attention_matches_its_formula(training: bool) -> None:
    layer = attention()
    x = torch.randn(3, 8, 5, dtype=torch.float64)
    before = layer.norm_logits.running_mean.clone()
    expected = naive(layer.train(training), x.numpy())
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-10)
    assert torch.equal(layer.norm_logits.running_mean, before) is not training


def test_the_table_is_interpolated_around_its_middle() -> None:
    layer = attention(length=5)
    with torch.no_grad():  # the values of a column are its distance, -4 to 4
        layer.relative.copy_(torch.arange(-4, 5).expand_as(layer.relative))
    for length in (2, 5, 9):
        position = torch.arange(length, dtype=torch.float64)
        distance = (position[:, None] - position[None, :]) * 4 / (length - 1)
        torch.testing.assert_close(layer.relative_to(length), distance.expand(8, -1, -1))
    assert (layer.relative_to(1) == 0).all()
    with pytest.raises(ValueError, match=r"width 12 is not a multiple of twice the number of heads 4"):
        RelativeLineAttention(12, 4, 5)


def test_attention_runs_along_columns_then_rows() -> None:
    block = models.build(axial_resnet.TINY).eval().stages[0].blocks[0]
    x = torch.rand(1, 8, 10, 10)
    y = block.norm1(block.conv1(x)).relu()
    down = torch.stack([block.column(y[..., column]) for column in range(10)], dim=3)
    across = torch.stack([block.row(down[:, :, row]) for row in range(10)], dim=2)
    expected = (block.norm2(block.conv2(across.relu())) + block.downsample(x)).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("axial-resnet26-s", 5_944_936),  # "5.9 M" in the paper of Axial-DeepLab
        ("axial-resnet50-s", 11_586_216),
        pytest.param("axial-resnet50-m", 25_179_400, marks=pytest.mark.slow),
        pytest.param("axial-resnet50-l", 43_973_480, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_of_the_published_code(name: str, parameters: int) -> None:
    model = models.build(models.preset(name), device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_tables_have_the_lengths_of_their_maps() -> None:
    model = models.build(models.preset("axial-resnet26-s"), device="meta")
    lengths = [[block.row.length for block in stage.blocks] for stage in model.stages]
    assert lengths == [[56], [56, 28], [28, 14, 14, 14], [14]]
    wide = models.preset("axial-resnet26-s", image_size=(64, 96))
    assert wide.grid == (2, 3)
    first = models.build(wide, device="meta").stages[0].blocks[0]
    assert (first.column.length, first.row.length) == (16, 24)


def test_config_grid_equals_the_grid_of_the_features() -> None:
    for size in [(40, 40), (33, 50), (9, 64)]:
        config = models.configs.override(axial_resnet.TINY, {"image_size": size})
        assert models.build(config).eval().features(torch.randn(1, 3, *size)).grid == config.grid


def test_unsupported_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"depths is \(1, 0\)"):
        axial_resnet.Config(depths=(1, 0))
    with pytest.raises(ValueError, match=r"stem_width 20 is not a multiple of num_heads 8"):
        axial_resnet.Config(stem_width=20)
    with pytest.raises(ValueError, match=r"takes images with 3 channels, but these have 1"):
        models.build(axial_resnet.TINY)(torch.zeros(1, 1, 40, 40))
