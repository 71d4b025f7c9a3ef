"""BEiT: the statistics of its masks, its two parts, and a tokenizer that learns to repaint."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from vitkit import models
from vitkit.data.augment import masks
from vitkit.data.loader import Batch
from vitkit.layers.dalle import WordEncoder
from vitkit.models import vit
from vitkit.objectives import beit, masked

SMALL = beit.Config(codes=32, code_width=8, hidden=32, smallest=2)


def build(config: beit.Config = SMALL) -> beit.BEiT:
    torch.manual_seed(0)
    return beit.build(config, models.build(vit.TINY)).train()


def batch(num: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    flat = torch.rand(num, 3, 4, 4, generator=generator) * 2 - 1  # one colour a patch
    return Batch(functional.interpolate(flat, scale_factor=8), torch.ones(num, 5), ("",) * num)


@pytest.mark.slow
def test_the_statistics_of_20000_masks_of_the_published_code() -> None:
    lot = random.Random(0)
    counts = np.array([masks.block_mask((14, 14), 75, 16, lot).sum() for _ in range(20_000)])
    assert counts.mean() == pytest.approx(74.47, abs=0.05)
    assert (counts == 75).mean() == pytest.approx(0.666, abs=0.012)
    assert counts.max() == 75
    assert (np.quantile(counts, 0.01), np.quantile(counts, 0.05)) == (70, 72)


def test_exactly_75_in_the_second_version() -> None:
    torch.manual_seed(0)
    drawn = masks.block_masks(300, (14, 14), 75 / 196, 16, exact=True)
    assert (drawn.sum(dim=1) == 75).all()
    assert not torch.equal(drawn[0], drawn[1])
    loose = masks.block_masks(300, (14, 14), 75 / 196, 16, exact=False)
    assert (loose.sum(dim=1) < 75).any()
    # Blocks: a masked patch has masked neighbours much more often than of 75 scattered ones.
    grid = drawn.reshape(300, 14, 14)
    assert (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, :-1].sum() > 0.6
    assert (masks.block_masks(20, (2, 2), 75 / 196, 16, exact=True).sum(dim=1) == 2).all()


def test_first_the_tokenizer_learns_then_the_backbone() -> None:
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
    # The loss by its own steps.
    torch.manual_seed(3)
    mask = masks.block_masks(8, (4, 4), SMALL.masked, SMALL.smallest, exact=SMALL.exact)
    words = objective.tokenizer.words(objective.tokenizer.vectors(given.images)).flatten(1)
    embedded = objective.encoder.embed(given.images)
    encoded = objective.encoder.encode(masked.put_mask(embedded, objective.encoder, objective.mask_token, mask))
    guesses = objective.lm_head(encoded.patches).log_softmax(2)
    expected = [-guesses[b, p, words[b, p]] for b in range(8) for p in range(16) if mask[b, p]]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_code_moves_towards_what_it_stood_for() -> None:
    tokenizer = build().tokenizer
    vectors = functional.normalize(torch.randn(2, 4, 4, 8), dim=3)
    words, codes = tokenizer.words(vectors), tokenizer.codebook.clone()
    tokenizer.repaint(vectors)
    tokenizer.learn(0)
    for word in words.unique():
        mean = vectors[words == word].mean(dim=0)
        expected = functional.normalize(0.99 * codes[word] + 0.01 * mean, dim=0)
        torch.testing.assert_close(tokenizer.codebook[word], expected)
    assert tokenizer.counts.sum() == 0


@pytest.mark.slow
def test_the_tokenizer_learns_to_repaint_with_many_words() -> None:
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


def published() -> WordEncoder:
    """DALL-E's encoder made narrow, its random weights large enough that pictures get different words."""
    torch.manual_seed(2)
    encoder = WordEncoder(hidden=4, words=32)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval().requires_grad_(False)


def test_with_the_published_tokenizer_the_backbone_learns_from_the_first_step() -> None:
    torch.manual_seed(0)
    encoder = published()
    objective = beit.BEiT(SMALL, models.build(vit.TINY), encoder)
    given = batch()
    torch.manual_seed(3)
    scalars = objective(given)
    scalars["loss"].backward()
    assert objective.mask_token.grad is not None
    assert not any(parameter.requires_grad for parameter in objective.published.parameters())
    # The words, picture by picture: 32 pixels in 0..1 become 8 a patch, and a word stands for 8 of them.
    for image, found in zip(given.images, objective.words(given.images, (4, 4)), strict=True):
        small = functional.interpolate(image[None] * 0.5 + 0.5, size=(32, 32), mode="bicubic", antialias=True)
        assert torch.equal(found, encoder(small.clamp(0, 1)).argmax(1)[0])
    assert scalars["words"] > 1


def test_the_published_tokenizer_is_in_the_state_by_its_fingerprint() -> None:
    one, other = (beit.BEiT(SMALL, models.build(vit.TINY), published()) for _ in range(2))
    state = one.state_dict()
    assert "published_digest" in state
    assert not [name for name in state if name.startswith("published.")]
    other.load_state_dict(state)
    with torch.no_grad():
        other.published.blocks.input.w.add_(1.0)
    other = beit.BEiT(SMALL, models.build(vit.TINY), other.published)
    with pytest.raises(ValueError, match="the published is another than the one"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"codes is 512 .* has 32 words"):
        beit.BEiT(beit.Config(), models.build(vit.TINY), published())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        beit.Config(masked=1.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        dataclasses.replace(SMALL, codes=0)
