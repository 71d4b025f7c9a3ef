"""MAE: published sizes, the fixed table, encoder and decoder against transformers' class with the same weights."""

from typing import Any

import pytest
import torch
from oracles import oracle
from random_weights import images, random
from torch import Tensor

from vitkit import models
from vitkit.layers import sincos2d
from vitkit.models.mae import TINY, MAEDecoder

ENCODERS = {"mae-b/16": 85_798_656, "mae-l/16": 303_301_632, "mae-h/14": 630_764_800}
ENCODER_AND_DECODER = {"mae-b/16": 111_907_840, "mae-l/16": 329_541_888, "mae-h/14": 657_074_508}


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters_of_the_official_models(name: str) -> None:
    config = models.preset(name)
    encoder = sum(parameter.numel() for parameter in models.build(config, device="meta").parameters())
    with torch.device("meta"):
        decoder = MAEDecoder(config.width, config.grid, patch_size=config.patch_size)
    assert encoder == ENCODERS[name]
    assert encoder + sum(parameter.numel() for parameter in decoder.parameters()) == ENCODER_AND_DECODER[name]


def test_the_fixed_table_matches_mae() -> None:
    width = 64
    table = sincos2d((3, 4), width, endpoint=False)
    second = table[1]  # row 0, column 1
    assert second[0].item() == pytest.approx(0.8415, abs=1e-4)
    assert second[width // 4].item() == pytest.approx(0.5403, abs=1e-4)
    assert second[width // 2] == 0
    assert second[3 * width // 4] == 1
    for row in range(3):
        for column in range(4):
            expected = [
                trigonometric(torch.tensor(index * 10_000 ** (-k / (width // 4)))).item()
                for index in (column, row)
                for trigonometric in (torch.sin, torch.cos)
                for k in range(width // 4)
            ]
            torch.testing.assert_close(table[4 * row + column], torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_moco_v3_equals_mae_with_swapped_halves() -> None:
    # MoCo v3's code creates both grids with the row first, so that the first half encodes the row.
    width, side = 32, 5
    omega = 1 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    first, second = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    out_first, out_second = (grid.flatten()[:, None] * omega for grid in (first, second))
    moco = torch.cat([out_first.sin(), out_first.cos(), out_second.sin(), out_second.cos()], dim=1).float()
    mae = sincos2d((side, side), width, endpoint=False)
    torch.testing.assert_close(torch.cat(mae.chunk(2, dim=1)[::-1], dim=1), moco)


def test_initial_encoder_and_decoder_have_the_fixed_table_without_gradient() -> None:
    encoder = models.build(TINY)
    assert not encoder.pos_embed[0, 0].any()
    torch.testing.assert_close(encoder.pos_embed[0, 1:], sincos2d((4, 4), 32, endpoint=False))
    decoder = MAEDecoder(32, (4, 4), patch_size=(8, 8), decoder_width=16, depth=1, num_heads=2)
    decoder.init_weights()
    torch.testing.assert_close(decoder.decoder_pos_embed[0, 1:], sincos2d((4, 4), 16, endpoint=False))
    assert not decoder.decoder_pos_embed.requires_grad


def decoder_names(theirs: Any) -> dict[str, Tensor]:
    """Returns the decoder of transformers' class with MAE's own names."""
    state: dict[str, Tensor] = {}
    for name, tensor in theirs.decoder.state_dict().items():
        ours = name.replace("decoder_layers", "decoder_blocks").replace("layernorm_before", "norm1")
        ours = ours.replace("layernorm_after", "norm2").replace("attention.o_proj", "attn.proj")
        state[ours] = tensor
    for name in [name for name in state if "attention.q_proj" in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return state


def test_masked_pretraining_equals_transformers() -> None:
    transformers = oracle("transformers")
    config = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, layer_norm_eps=1e-6, mask_ratio=0.75,
    )  # fmt: skip
    theirs = random(transformers.ViTMAEForPreTraining(config))
    encoder = models.build(models.preset("mae-b/16", image_size=32, patch_size=8, num_heads=2, width=32, depth=2,
                                         mlp_width=64))  # fmt: skip
    encoder.load_state_dict(encoder_names(theirs))
    decoder = MAEDecoder(32, (4, 4), patch_size=(8, 8), decoder_width=16, depth=2, num_heads=2)
    decoder.load_state_dict(decoder_names(theirs))
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(2))
    expected = theirs(images(), noise=noise)

    order = noise.argsort(dim=1)
    embedded = encoder.eval().embed(images())
    visible = embedded.patches.gather(1, order[:, :4, None].expand(-1, -1, 32))
    encoded = encoder.encode(embedded.with_tokens(torch.cat([embedded.special, visible], dim=1))).tokens
    pixels = decoder.eval()(encoded, order.argsort(dim=1))
    torch.testing.assert_close(pixels, expected.logits, atol=1e-4, rtol=1e-4)
    assert pixels.shape == (2, 16, 8 * 8 * 3)


def encoder_names(theirs: Any) -> dict[str, Tensor]:
    """Returns the encoder of transformers' class with our names."""
    state: dict[str, Tensor] = {}
    swaps = (
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
        ("layers.", "blocks."), ("attention.o_proj", "attn.proj"), ("layernorm", "norm"),
    )  # fmt: skip
    for name, tensor in theirs.vit.state_dict().items():
        for old, new in swaps:
            name = name.replace(old, new)
        state[name] = tensor
    for name in [name for name in state if "attention.q_proj" in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return state


def test_decoder_at_another_resolution_resizes_its_table_in_two_dimensions() -> None:
    decoder = random(MAEDecoder(32, (4, 4), patch_size=(8, 8), decoder_width=16, depth=1, num_heads=2))
    restore = torch.arange(24).expand(2, -1)
    assert decoder(torch.randn(2, 25, 32), restore, (4, 6)).shape == (2, 24, 192)
    with pytest.raises(ValueError, match=r"restore has 24 indices, but the grid \(4, 4\) has 16 patches"):
        decoder(torch.randn(2, 25, 32), restore)
