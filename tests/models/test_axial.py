"""Axial-ViT against masked attention and loops over lines, and its cost against the plain ViT."""

import math

import pytest
import torch
from slow_cases import slow_except
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vitkit import models
from vitkit.layers import MLP, Attention, AxialBlock, Block, Features
from vitkit.models import axial, vit


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def pair(axis: str) -> tuple[AxialBlock, Block]:
    """Returns an axial and a plain block with the same weights, in double precision."""
    block = perturbed(AxialBlock(Attention(16, 2), MLP(16, 24), axis, width=16)).double()
    plain = Block(Attention(16, 2), MLP(16, 24), width=16).double()
    plain.load_state_dict(block.state_dict())
    return block, plain.eval()


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("axis", ["row", "column"])
def test_axial_block_equals_a_block_masked_to_lines(axis: str, grid: tuple[int, int]) -> None:
    block, plain = pair(axis)
    x = torch.randn(2, math.prod(grid), 16, dtype=torch.float64)
    line = [(index // grid[1], index % grid[1])[axis == "column"] for index in range(math.prod(grid))]
    mask = torch.full((len(line), len(line)), -math.inf, dtype=torch.float64)
    for i, own in enumerate(line):
        for j, other in enumerate(line):
            if own == other:
                mask[i, j] = 0
    torch.testing.assert_close(block(x, grid), plain(x, mask))
    weights, expected = block.attention_weights(x, grid), plain.attention_weights(x, mask)
    torch.testing.assert_close(weights, expected.float())


def test_model_equals_loops_over_rows_and_columns() -> None:
    config = axial.Config(
        image_size=(24, 32), patch_size=(8, 8), width=16, depth=2, num_heads=2, mlp_width=24, num_classes=5
    )
    model = perturbed(models.build(config)).double()
    images = torch.randn(2, 3, 24, 32, dtype=torch.float64)
    grid = model.patch_embed(images).permute(0, 2, 3, 1) + model.pos_embed.reshape(1, 3, 4, 16)
    for number, axial_block in enumerate(model.blocks):
        plain = Block(Attention(16, 2), MLP(16, 24), width=16).double()
        plain.load_state_dict(axial_block.state_dict())
        out = torch.empty_like(grid)
        if number % 2 == 0:
            for row in range(3):
                out[:, row] = plain(grid[:, row])
        else:
            for column in range(4):
                out[:, :, column] = plain(grid[:, :, column])
        grid = out
    expected = model.head(model.norm(grid).mean(dim=(1, 2)))
    torch.testing.assert_close(model(images), expected)


def test_with_one_row_of_patches_the_row_block_equals_a_plain_block() -> None:
    config = axial.Config(
        image_size=(8, 40), patch_size=(8, 8), width=16, depth=1, num_heads=2, mlp_width=24, num_classes=0
    )
    model = perturbed(models.build(config))
    embedded = model.embed(torch.randn(2, 3, 8, 40))
    row, column = model.blocks
    plain = Block(Attention(16, 2), MLP(16, 24), width=16).eval()
    plain.load_state_dict(row.state_dict())
    tokens = plain(embedded.tokens)
    # Attention over a single token returns its value.
    _, _, value = column.attn.heads(column.norm1(tokens))
    tokens = tokens + column.attn.proj(value.transpose(1, 2).flatten(2))
    tokens = tokens + column.mlp(column.norm2(tokens))
    torch.testing.assert_close(model.encode(embedded).tokens, model.norm(tokens), atol=1e-6, rtol=1e-5)


def test_stochastic_depth_drops_complete_images() -> None:
    block = AxialBlock(Attention(16, 2), MLP(16, 24), "row", width=16, drop_path=0.5).train()
    x = torch.randn(64, 12, 16)
    kept = (block(x, (3, 4)) != x).flatten(1)
    assert (kept.all(dim=1) | ~kept.any(dim=1)).all()
    assert 0 < (~kept.any(dim=1)).sum() < 64
    rates = [each.drop_path.rate for each in axial.Model(axial.Config(depth=2, stochastic_depth=0.3)).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_positions_learned_factorized_and_none() -> None:
    changes = {"image_size": (24, 32), "patch_size": (8, 8), "width": 16, "num_heads": 2, "depth": 1, "mlp_width": 8}
    learned, factorized, none = (
        perturbed(models.build(axial.Config(**changes, position=position)))
        for position in ("learned", "factorized", "none")
    )
    assert learned.positions((3, 4)).shape == (1, 12, 16)
    assert torch.equal(learned.positions((3, 4)), learned.pos_embed)
    table = factorized.positions((3, 4))[0].reshape(3, 4, 16)
    for row in range(3):
        for column in range(4):
            parts = factorized.pos_embed_row[0, row], factorized.pos_embed_column[0, column]
            assert torch.equal(table[row, column], torch.cat(parts))
    # Interpolated along its own axis only; the ends do not change.
    wide = factorized.positions((3, 7))[0].reshape(3, 7, 16)
    torch.testing.assert_close(wide[:, ::2], table)
    assert none.positions((3, 4)) is None
    images = torch.randn(1, 3, 24, 32)
    for model in (learned, factorized):
        model.zero_grad()
        model(images).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    # Without positions, flipping the rows changes nothing: attention and mean are permutation-invariant.
    tokens = none.embed(images).tokens
    flipped = tokens.reshape(1, 3, 4, 16).flip(1).reshape(1, 12, 16)
    representation = none.represent(none.encode(Features(tokens=tokens, grid=(3, 4))))
    again = none.represent(none.encode(Features(tokens=flipped, grid=(3, 4))))
    torch.testing.assert_close(again, representation)


@pytest.mark.parametrize("name", slow_except(["b/16", "b/32", "s/16"], "s/16"))
def test_flops_and_parameters_compared_with_the_plain_model(name: str) -> None:
    config, plain = (models.preset(f"{prefix}vit-{name}", depth=3) for prefix in ("axial-", ""))
    model = models.build(config, device="meta")
    flops = _flops(model, config)
    assert flops == expected_flops(config, lines=config.grid)
    assert _flops(models.build(plain, device="meta"), plain) == expected_flops(plain, lines=None)
    # Two blocks replace one: less attention, twice the other layers (appendix D.6: "at the cost of more compute").
    assert flops > 1.6 * expected_flops(plain, lines=None)
    blocks, plain_blocks = (_count(models.build(each, device="meta").blocks) for each in (config, plain))
    assert blocks == 2 * plain_blocks


def _flops(model: torch.nn.Module, config: axial.Config | vit.Config) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, config.channels, *config.image_size, device="meta"))
    return counter.get_total_flops()


def expected_flops(config: axial.Config | vit.Config, lines: tuple[int, int] | None) -> int:
    """Two operations per multiplication: projections and MLP for every token, attention for every pair of a line."""
    patches, width = math.prod(config.grid), config.width
    tokens = patches + (0 if lines else 1)
    dense = tokens * (4 * width * width + 2 * width * config.mlp_width)
    spans = [lines[1], lines[0]] if lines else [tokens]
    blocks = sum(dense + 2 * tokens * span * width for span in spans)
    embedding = patches * math.prod(config.patch_size) * config.channels * width
    return 2 * (embedding + config.depth * blocks + width * config.num_classes)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_unsupported_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"image_size \(8, 8\) is smaller than one patch"):
        axial.Config(image_size=(8, 8))
    with pytest.raises(ValueError, match=r"position='factorized' needs an even width, not 9"):
        axial.Config(width=9, num_heads=3, position="factorized")
    features: Tensor = models.build(axial.TINY).features(torch.randn(1, 3, 24, 32)).tokens
    assert features.shape == (1, 12, 32)
