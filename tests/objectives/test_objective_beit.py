"""BEiT: the statistics of its masks, its two parts, and a tokenizer that learns to repaint."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from vitkit import models
from vitkit.data.loader import Batch
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


def test_the_statistics_of_20000_masks_of_the_published_code() -> None:
    lot = random.Random(0)
    counts = np.array([beit.block_mask((14, 14), 75, 16, lot).sum() for _ in range(20_000)])
    assert counts.mean() == pytest.approx(74.47, abs=0.05)
    assert (counts == 75).mean() == pytest.approx(0.666, abs=0.012)
    assert counts.max() == 75
    assert (np.quantile(counts, 0.01), np.quantile(counts, 0.05)) == (70, 72)


def test_exactly_75_in_the_second_version() -> None:
    torch.manual_seed(0)
    masks = beit.block_masks(300, (14, 14), beit.Config())
    assert (masks.sum(dim=1) == 75).all()
    assert not torch.equal(masks[0], masks[1])
    loose = beit.block_masks(300, (14, 14), beit.Config(exact=False))
    assert (loose.sum(dim=1) < 75).any()
    # Blocks: a masked patch has masked neighbours much more often than of 75 scattered ones.
    grid = masks.reshape(300, 14, 14)
    assert (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, :-1].sum() > 0.6
    assert (beit.block_masks(20, (2, 2), beit.Config()).sum(dim=1) == 2).all()


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
    mask = beit.block_masks(8, (4, 4), SMALL)
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


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        beit.Config(masked=1.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        dataclasses.replace(SMALL, codes=0)
