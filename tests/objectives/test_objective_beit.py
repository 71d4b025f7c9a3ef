"""BEiT: statistics of its masks, its two phases, and the training of the tokenizer."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from vitkit import models
from vitkit.data.augment import masks
from vitkit.data.loader import Batch
from vitkit.layers.dalle import DalleEncoder
from vitkit.models import vit
from vitkit.objectives import beit, masked

SMALL = beit.Config(codes=32, code_width=8, hidden=32, smallest=2)


def build(config: beit.Config = SMALL) -> beit.BEiT:
    torch.manual_seed(0)
    return beit.build(config, models.build(vit.TINY)).train()


def batch(num: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    flat = torch.rand(num, 3, 4, 4, generator=generator) * 2 - 1  # one color per patch
    return Batch(functional.interpolate(flat, scale_factor=8), torch.ones(num, 5), ("",) * num)


@pytest.mark.slow
def test_masks_have_the_statistics_of_the_published_code() -> None:
    generator = random.Random(0)
    counts = np.array([masks.block_mask((14, 14), 75, 16, generator).sum() for _ in range(20_000)])
    assert counts.mean() == pytest.approx(74.47, abs=0.05)
    assert (counts == 75).mean() == pytest.approx(0.666, abs=0.012)
    assert counts.max() == 75
    assert (np.quantile(counts, 0.01), np.quantile(counts, 0.05)) == (70, 72)


def test_exact_masks_have_exactly_75_patches() -> None:
    torch.manual_seed(0)
    exact = masks.block_masks(300, (14, 14), 75 / 196, 16, exact=True)
    assert (exact.sum(dim=1) == 75).all()
    assert not torch.equal(exact[0], exact[1])
    loose = masks.block_masks(300, (14, 14), 75 / 196, 16, exact=False)
    assert (loose.sum(dim=1) < 75).any()
    # Blocks: masked patches have masked neighbors much more often than in a uniform random mask.
    grid = exact.reshape(300, 14, 14)
    assert (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, :-1].sum() > 0.6
    assert (masks.block_masks(20, (2, 2), 75 / 196, 16, exact=True).sum(dim=1) == 2).all()


def test_the_first_phase_trains_the_tokenizer_and_the_second_the_backbone() -> None:
    objective, given = build(), batch()
    objective(given)["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.tokenizer.parameters())
    assert all(parameter.grad is None for parameter in objective.backbone.parameters())
    codes = objective.tokenizer.codebook.clone()
    objective.after_step(0.1)
    assert not torch.equal(codes, objective.tokenizer.codebook)
    torch.testing.assert_close(objective.tokenizer.codebook.norm(dim=1), torch.ones(32))
    objective.zero_grad()
    codes = objective.tokenizer.codebook.clone()
    torch.manual_seed(3)
    loss = objective(given)["loss"]
    loss.backward()
    assert all(parameter.grad is None for parameter in objective.tokenizer.parameters())
    assert objective.lm_head.weight.grad is not None
    objective.after_step(0.2)
    assert torch.equal(codes, objective.tokenizer.codebook)
    # The loss step by step.
    torch.manual_seed(3)
    mask = masks.block_masks(8, (4, 4), SMALL.mask_ratio, SMALL.smallest, exact=SMALL.exact)
    tokens = objective.tokenizer.nearest_codes(objective.tokenizer.vectors(given.images)).flatten(1)
    embedded = objective.encoder.embed(given.images)
    encoded = objective.encoder.encode(masked.apply_mask(embedded, objective.encoder, objective.mask_token, mask))
    logits = objective.lm_head(encoded.patches).log_softmax(2)
    expected = [-logits[b, p, tokens[b, p]] for b in range(8) for p in range(16) if mask[b, p]]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_code_moves_towards_the_mean_of_its_vectors() -> None:
    tokenizer = build().tokenizer
    vectors = functional.normalize(torch.randn(2, 4, 4, 8), dim=3)
    indices, codes = tokenizer.nearest_codes(vectors), tokenizer.codebook.clone()
    tokenizer.reconstruct(vectors)
    tokenizer.update_codebook(0)
    for index in indices.unique():
        mean = vectors[indices == index].mean(dim=0)
        expected = functional.normalize(0.99 * codes[index] + 0.01 * mean, dim=0)
        torch.testing.assert_close(tokenizer.codebook[index], expected)
    assert tokenizer.counts.sum() == 0


@pytest.mark.slow
def test_the_tokenizer_learns_to_reconstruct_with_many_codes() -> None:
    objective, given = build(), batch(32)
    optimizer = torch.optim.AdamW(objective.tokenizer.parameters(), lr=3e-3)
    first = last = objective(given)
    for _ in range(200):
        optimizer.zero_grad()
        last = objective(given)
        last["loss"].backward()
        optimizer.step()
        objective.after_step(0.05)
    variance = given.images.var()
    assert first["loss"] > 0.9 * variance
    assert last["loss"] < 0.5 * variance
    assert last["words"] > 12


def published() -> DalleEncoder:
    """DALL-E's encoder with few channels and random weights that give different tokens to different images."""
    torch.manual_seed(2)
    encoder = DalleEncoder(hidden=4, vocabulary=32)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval().requires_grad_(False)


def test_with_the_published_tokenizer_the_backbone_is_trained_from_the_first_step() -> None:
    torch.manual_seed(0)
    encoder = published()
    objective = beit.BEiT(SMALL, models.build(vit.TINY), encoder)
    given = batch()
    torch.manual_seed(3)
    scalars = objective(given)
    scalars["loss"].backward()
    assert objective.mask_token.grad is not None
    assert not any(parameter.requires_grad for parameter in objective.published.parameters())
    # The tokens of each image, resized to 8x8 pixels per patch, with pixel values in [0, 1].
    for image, tokens in zip(given.images, objective.visual_tokens(given.images, (4, 4)), strict=True):
        small = functional.interpolate(image[None] * 0.5 + 0.5, size=(32, 32), mode="bicubic", antialias=True)
        assert torch.equal(tokens, encoder(small.clamp(0, 1)).argmax(1)[0])
    assert scalars["words"] > 1


def test_the_state_dict_has_a_digest_of_the_published_tokenizer() -> None:
    one, other = (beit.BEiT(SMALL, models.build(vit.TINY), published()) for _ in range(2))
    state = one.state_dict()
    assert "published_digest" in state
    assert not [name for name in state if name.startswith("published.")]
    other.load_state_dict(state)
    with torch.no_grad():
        other.published.blocks.input.w.add_(1.0)
    other = beit.BEiT(SMALL, models.build(vit.TINY), other.published)
    with pytest.raises(ValueError, match="the weights of 'published' have changed"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"codes is 512 .* has 32 codes"):
        beit.BEiT(beit.Config(), models.build(vit.TINY), published())


def test_invalid_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.0; it must be above 0 and below 1"):
        beit.Config(mask_ratio=1.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        dataclasses.replace(SMALL, codes=0)
