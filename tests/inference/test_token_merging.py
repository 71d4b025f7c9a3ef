"""Token merging against a loop: matching, merged tokens, and proportional attention."""

import math

import pytest
import torch
from torch import Tensor

from vitkit import models
from vitkit.inference import engine
from vitkit.inference.engine.merging import Merging, match, schedule


def loop(x: Tensor, metric: Tensor, size: list[float], r: int, special: int) -> tuple[list[Tensor], list[float], list]:
    """Matching of the paper for one image, token by token; also returns the original tokens of each merged token."""
    n = metric.shape[0]
    r = min(r, (n - special) // 2)
    unit = [vector / vector.norm() for vector in metric]
    pairs = []
    for i in range(0, n, 2):
        if i >= special:
            score, j = max((float(unit[i] @ unit[j]), -j) for j in range(1, n, 2) if j >= special)
            pairs.append((score, i, -j))
    merged = {i: j for _, i, j in sorted(pairs, key=lambda pair: -pair[0])[:r]}
    groups = {j: [j] + [i for i in merged if merged[i] == j] for j in range(n) if j not in merged}
    order = [*range(special), *(i for i in range(special, n) if i % 2 == 0), *(i for i in range(special, n) if i % 2)]
    tokens, sizes, parts = [], [], []
    for position in (position for position in order if position in groups):
        total = sum(size[i] for i in groups[position])
        tokens.append(sum(x[i] * size[i] for i in groups[position]) / total)
        sizes.append(total)
        parts.append(sorted(groups[position]))
    return tokens, sizes, parts


@pytest.mark.parametrize("special", [0, 1, 2, 5])
@pytest.mark.parametrize(("n", "r"), [(17, 3), (17, 8), (18, 100), (197, 13), (6, 1)])
def test_matching_equals_the_loop(n: int, r: int, special: int) -> None:
    generator = torch.Generator().manual_seed(n + r + special)
    x, metric = torch.randn(2, n, 8, generator=generator), torch.randn(2, n, 4, generator=generator)
    size = torch.randint(1, 5, (2, n), generator=generator).float()
    size[:, :special] = 1
    found = match(metric, r, special)
    if found is None:
        assert min(r, (n - special) // 2) == 0
        return
    for image in range(2):
        tokens, sizes, parts = loop(x[image], metric[image], size[image].tolist(), r, special)
        torch.testing.assert_close(found.tokens(x, size)[image], torch.stack(tokens))
        assert found.sizes(size)[image].tolist() == sizes
        for new, olds in enumerate(parts):
            assert (found.target[image] == new).nonzero()[:, 0].tolist() == olds
        assert found.target[image, :special].tolist() == list(range(special))


@pytest.mark.parametrize(
    ("n", "r", "depth", "left"),
    [(197, 13, 12, 41), (197, 16, 11, 21), (197, 16, 12, 11), (197, 8, 23, 13), (197, 8, 24, 7)],
)
def test_number_of_remaining_tokens(n: int, r: int, depth: int, left: int) -> None:
    """Numbers of the original implementation for ViT-B and MAE ViT-L."""
    for count in schedule(r, depth):
        found = match(torch.randn(1, n, 4), count, 1)
        n = n if found is None else found.count
    assert n == left


def test_schedules() -> None:
    assert schedule(13, 3) == [13, 13, 13]
    assert schedule((8, -1.0), 5) == [16, 12, 8, 4, 0]
    assert schedule((8, 1.0), 5) == [0, 4, 8, 12, 16]
    assert schedule([4, 2], 4) == [4, 2, 0, 0]
    for wrong, message in (((8, 2.0), "between -1 and 1"), ([1, 2, 3], "given for 3 blocks"), (-1, "at least 0")):
        with pytest.raises(ValueError, match=message):
            schedule(wrong, 2)


def test_proportional_attention_and_unmerge() -> None:
    """A key of size s has the attention weight of s equal keys."""
    torch.manual_seed(0)
    q, values, keys = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    size = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0]])
    counts = size.long()[0]
    plain = torch.nn.functional.scaled_dot_product_attention(
        q, keys.repeat_interleave(counts, dim=2), values.repeat_interleave(counts, dim=2)
    )
    merging = Merging([2], 1)
    merging.begin()
    assert merging.bias() is None
    merging._state.size = size
    weighted = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=merging.bias())
    torch.testing.assert_close(weighted, plain)
    unproportional = Merging([2], 1, proportional=False)
    unproportional._state.size = size
    assert unproportional.bias() is None
    x, merging = torch.randn(2, 9, 4), Merging([2, 2], 1)
    merging.begin()
    once = merging.merge(0, x, torch.randn(2, 3, 9, 4))
    twice = merging.merge(1, once, torch.randn(2, 3, 7, 4))
    assert twice.shape == (2, 5, 4)
    restored = merging.unmerge(twice)
    assert restored.shape == x.shape
    # The mean over all positions does not change.
    torch.testing.assert_close(restored.mean(dim=1), x.mean(dim=1))
    torch.testing.assert_close(restored[:, 0], x[:, 0])


def test_unmerge_restores_equal_tokens() -> None:
    """Merging pairs of equal tokens and restoring them loses nothing."""
    torch.manual_seed(0)
    pairs = torch.randn(2, 4, 6).repeat_interleave(2, dim=1)
    x = torch.cat([torch.randn(2, 1, 6), pairs], dim=1)
    merging = Merging([4], 1)
    merging.begin()
    once = merging.merge(0, x, x[:, None])
    assert once.shape == (2, 5, 6)
    torch.testing.assert_close(merging.unmerge(once), x)


@pytest.mark.parametrize("pool", ["token", "gap", "map"])
def test_model_merges_tokens_and_reports_the_change(pool: str) -> None:
    torch.manual_seed(0)
    config = models.preset("vit-mu/16", image_size=96, num_classes=3, depth=3, pool=pool)
    model = models.build(config).eval()
    torch.nn.init.normal_(model.head.weight)
    images = torch.randn(2, 3, 96, 96)
    for merge in (3, [4, 0, 2], (4, -1.0)):
        fast = engine.accelerate(model, precision="float32", merge=merge)
        assert "token merging" in fast.summary
        with torch.inference_mode():
            features = fast.model.features(images)
            logits = fast.model(images)
            exact = model(images)
        assert features.tokens.shape[1] == (1 if pool == "token" else 37)
        assert 0 < float((logits - exact).abs().max()) < 2 * float(exact.std())
    unmerged = engine.accelerate(model, precision="float32", merge=0)
    assert unmerged.model is model


def test_merging_equal_patches_does_not_change_outputs() -> None:
    """An image of one color without position embeddings: all patch tokens are equal."""
    torch.manual_seed(0)
    model = models.build(models.preset("vit-mu/16", image_size=96, num_classes=3, depth=3, position="none")).eval()
    torch.nn.init.normal_(model.head.weight)
    gray = torch.full((1, 3, 96, 96), 0.3)
    fast = engine.accelerate(model, precision="float32", merge=9)
    with torch.inference_mode():
        torch.testing.assert_close(fast.model(gray), model(gray), atol=1e-5, rtol=1e-5)
        assert math.isfinite(float(fast.model(gray).sum()))


@pytest.mark.parametrize("family", ["beit", "dinov3", "axial", "bit"])
def test_models_with_positions_in_attention_are_rejected(family: str) -> None:
    model = models.build(models.family(family).TINY)
    with pytest.raises(ValueError, match=r"tokens can(not)? be merged"):
        engine.accelerate(model, precision="float32", merge=2)
