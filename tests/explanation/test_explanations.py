"""Every explanation equals its definition, written as plain loops or in float64 numpy."""

import math

import numpy as np
import pytest
import torch
from explicit_softmax import Kernel, between_tokens
from small_models import noise_images, small

from vitkit import explanation, models
from vitkit.explanation import ExplainInputs, explain
from vitkit.explanation._hooks import token_backbone
from vitkit.explanation.attention import attention_maps
from vitkit.explanation.distance import attention_distance, distances_by_layer
from vitkit.explanation.filters import principal_filters, rgb_filters
from vitkit.explanation.foreground import foreground_mask
from vitkit.explanation.gradient import class_attention
from vitkit.explanation.positions import position_similarity
from vitkit.explanation.rollout import rollout, step
from vitkit.models import Backbone


def naive_step(weights: np.ndarray, fusion: str, discard: float, num_special: int) -> np.ndarray:
    """Returns the (n, n) mixing matrix of one image's (h, n, n) weights."""
    heads, n, _ = weights.shape
    fused = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            values = [weights[head, i, j] for head in range(heads)]
            fused[i, j] = {"mean": sum(values) / heads, "max": max(values), "min": min(values)}[fusion]
    to_patches = sorted((fused[i, j], i, j) for i in range(n) for j in range(num_special, n))
    for _, i, j in to_patches[: int(discard * len(to_patches))]:
        fused[i, j] = 0
    for i in range(n):
        fused[i, i] += 1
        fused[i] /= fused[i].sum()
    return fused


@pytest.mark.parametrize(("fusion", "discard"), [("mean", 0.0), ("max", 0.5), ("min", 0.9)])
def test_rollout_equals_its_loop(tiny: Backbone, fusion: str, discard: float) -> None:
    images = noise_images(tiny, factor=(1, 1.5))
    product, features = rollout(tiny, images, fusion=fusion, discard=discard)
    attention = attention_maps(tiny, images)
    for image in range(2):
        naive = np.eye(product.shape[1])
        for weights in attention.weights:
            naive = naive_step(weights[image].double().numpy(), fusion, discard, features.num_special) @ naive
        np.testing.assert_allclose(product[image].numpy(), naive, atol=1e-5)
    torch.testing.assert_close(product.sum(dim=-1), torch.ones(product.shape[:2]), atol=1e-5, rtol=0)


def test_rollout_to_a_layer_and_wrong_options() -> None:
    model = small("vit")
    images = noise_images(model)
    first, _ = rollout(model, images, layer=0)
    torch.testing.assert_close(first, step(attention_maps(model, images, [0]).weights[0]))
    with pytest.raises(ValueError, match="unknown fusion 'median'; choose from mean, max, min"):
        rollout(model, images, fusion="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least 0 and below 1"):
        rollout(model, images, discard=1.0)


def test_attention_distance_equals_its_loop() -> None:
    grid, patch, num_special = (2, 3), (8, 4), 2
    weights = torch.rand(2, 3, 8, 8).softmax(dim=-1)
    distances = attention_distance(weights, grid, patch)
    centers = [(row * patch[0], column * patch[1]) for row in range(grid[0]) for column in range(grid[1])]
    for image in range(2):
        for head in range(3):
            total = 0.0
            for i, here in enumerate(centers):
                for j, there in enumerate(centers):
                    weight = float(weights[image, head, num_special + i, num_special + j])
                    total += weight * math.hypot(here[0] - there[0], here[1] - there[1])
            assert float(distances[image, head]) == pytest.approx(total / len(centers), rel=1e-5)


def test_distances_of_every_family_are_the_mean_over_images(tiny: Backbone) -> None:
    images = noise_images(tiny, batch=9, factor=(1, 1.5))
    attention = attention_maps(tiny, images)
    per_image = distances_by_layer(tiny, images)
    for layer, weights in enumerate(attention.weights):
        expected = attention_distance(weights, attention.features.grid, tiny.config.patch_size)
        torch.testing.assert_close(per_image[:, layer], expected, atol=1e-4, rtol=1e-4)
    explanation = explain("distance", ExplainInputs(tiny, images))
    np.testing.assert_allclose(explanation.arrays["distance"], per_image.mean(dim=0), rtol=1e-6)
    longest = math.hypot(*(side - patch for side, patch in zip(images.shape[2:], tiny.config.patch_size, strict=True)))
    assert 0 < explanation.arrays["uniform"] < longest


def test_distance_of_uniform_attention() -> None:
    model = small("axial")
    images = noise_images(model)
    rows, columns = model.features(images).grid
    weights = torch.full((1, 1, rows * columns, rows * columns), 1 / (rows * columns))
    uniform = explanation.explain("distance", ExplainInputs(model, images)).arrays["uniform"]
    assert float(attention_distance(weights, (rows, columns), model.config.patch_size)) == pytest.approx(float(uniform))


def test_position_similarity_equals_its_loop(tiny: Backbone) -> None:
    positions = getattr(tiny, "positions", None)
    if positions is None or positions(tiny.config.grid) is None:
        with pytest.raises(ValueError, match=r"adds no position embedding to its patches"):
            position_similarity(tiny)
        return
    rows, columns = tiny.config.grid
    table = positions(tiny.config.grid)[0].detach().double().numpy()
    patches = table[len(table) - rows * columns :].reshape(rows, columns, -1)
    similarity = position_similarity(tiny).numpy()
    for row, column in np.ndindex(rows, columns):
        for r, c in np.ndindex(rows, columns):
            one, other = patches[row, column], patches[r, c]
            cosine = one @ other / math.sqrt((one @ one) * (other @ other))
            assert similarity[row, column, r, c] == pytest.approx(cosine, abs=1e-5)


def test_a_large_grid_of_positions_is_subsampled_in_the_drawing_only() -> None:
    model = models.build(models.preset("vit-mu/16", image_size=(16 * 33, 32)))
    explanation = explain("positions", ExplainInputs(model, torch.empty(0, 3, 32, 32)))
    assert explanation.arrays["similarity"].shape == (33, 2, 33, 2)
    assert explanation.drawing.tiles.shape == (11, 1, 33, 2)


def test_filters_are_the_eigenvectors_of_the_covariance() -> None:
    weight = torch.randn(40, 3, 2, 4, dtype=torch.float64) * torch.linspace(0.5, 3, 24, dtype=torch.float64).view(
        3, 2, 4
    )
    filters, ratios = principal_filters(weight, 5)
    flat = weight.numpy().reshape(40, -1)
    variances, vectors = np.linalg.eigh(np.cov(flat.T))
    for index in range(5):
        expected = vectors[:, -1 - index]
        expected = expected * np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(filters[index].flatten(), expected, atol=1e-5)
        assert float(ratios[index]) == pytest.approx(variances[-1 - index] / variances.sum(), rel=1e-5)
    with pytest.raises(ValueError, match="number is 25; expected 1 to 24"):
        principal_filters(weight, 25)


def test_filters_of_every_family_without_a_convolutional_stem(tiny: Backbone) -> None:
    if tiny.config.patch_size != token_backbone(tiny).get_submodule("patch_embed").patch_size:  # a hybrid
        with pytest.raises(ValueError, match=r"is not applied to a grayscale or RGB image"):
            rgb_filters(tiny)
        return
    filters, _ = rgb_filters(tiny, 6)
    assert filters.shape == (6, 3, *tiny.config.patch_size)


def test_filters_of_grey_images_are_gray() -> None:
    model = models.build(models.preset("vit-mu/16", image_size=32, channels=1))
    explanation = explain("filters", ExplainInputs(model, torch.empty(0, 1, 32, 32)), number=9)
    tiles = explanation.drawing.tiles
    assert tiles.shape == (2, 7, 16, 16, 3)
    assert (tiles[..., 0] == tiles[..., 2]).all()
    assert (tiles[1, 2:] == 1).all(), "cells without a filter are white"
    assert tiles.min() >= 0
    assert tiles.max() <= 1


def test_class_attention_equals_autograd_through_an_explicit_softmax(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise_images(tiny, factor=(1, 1.5))
    for parameter in tiny.parameters():
        parameter.requires_grad_(False)
    actual, classes, embedded = class_attention(tiny, images, [1, 3])
    assert classes == [1, 3]
    kernel = Kernel(monkeypatch)
    logits = tiny(images.requires_grad_())
    (logits[0, 1] + logits[1, 3]).backward()
    relevance = torch.eye(actual.shape[1]).expand(2, -1, -1)
    for block, weights in zip(token_backbone(tiny).blocks, kernel.weights, strict=True):
        product = between_tokens(block, (weights * weights.grad).detach(), embedded.grid)
        relevance = relevance + product.clamp(min=0).mean(dim=1) @ relevance
    expected = relevance - torch.eye(actual.shape[1])
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3)


def test_the_gradient_explains_the_requested_class() -> None:
    model = small("vit")
    subject = ExplainInputs(model, noise_images(model), labels=("tabby, tabby cat", "dog", "fish", "bird", "car"))
    by_name = explanation.explain("gradient", subject, label="Tabby Cat")
    by_number = explanation.explain("gradient", subject, label=0)
    assert by_name.arrays["classes"].tolist() == [0, 0]
    np.testing.assert_array_equal(by_name.arrays["maps"], by_number.arrays["maps"])
    top = explanation.explain("gradient", subject)
    assert top.arrays["classes"].tolist() == model(subject.pixels).argmax(dim=-1).tolist()
    with pytest.raises(ValueError, match="no class 'bir'; did you mean 'bird'"):
        explanation.explain("gradient", subject, label="bir")
    model.reset_head(0)
    with pytest.raises(ValueError, match="has no classes"):
        explanation.explain("gradient", subject)


@pytest.mark.parametrize("fraction", [0.1, 0.6, 1.0])
def test_foreground_is_the_smallest_set_with_the_requested_attention(fraction: float) -> None:
    attention = torch.rand(2, 3, 4, 5)
    masks = foreground_mask(attention, fraction)
    assert masks.shape == attention.shape
    for values, mask in zip(attention.flatten(0, 1).double(), masks.flatten(0, 1), strict=True):
        selected, mass = set(), 0.0
        for index in values.flatten().argsort(descending=True).tolist():
            # The tolerance covers rounding: the fractions do not sum to exactly 1.
            if mass >= fraction * float(values.sum()) * (1 - 1e-12):
                break
            selected.add(index)
            mass += float(values.flatten()[index])
        assert set(mask.flatten().nonzero().flatten().tolist()) == selected
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        foreground_mask(attention, 0.0)
