"""Attention weights equal those of the model, for every family, and are computed for the requested layers only."""

import pytest
import torch
from explicit_softmax import Kernel, between_tokens
from small_models import noise_images, small

from vitkit import explanation
from vitkit.explanation import ExplainInputs
from vitkit.explanation._hooks import find_query, patch_map, token_backbone
from vitkit.explanation.attention import attention_maps
from vitkit.explanation.gradient import class_attention
from vitkit.layers import Features
from vitkit.models import Backbone


@pytest.mark.parametrize("factor", [(1, 1), (2, 3)], ids=["native", "larger and not square"])
def test_weights_equal_an_explicit_softmax(
    tiny: Backbone, factor: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise_images(tiny, factor=factor)
    attention = attention_maps(tiny, images)
    kernel = Kernel(monkeypatch)
    with torch.no_grad():
        tiny(images)
    blocks = token_backbone(tiny).blocks
    assert len(attention.weights) == len(kernel.weights) == len(blocks)
    for block, weights, used in zip(blocks, attention.weights, kernel.weights, strict=True):
        torch.testing.assert_close(weights, between_tokens(block, used, attention.features.grid), atol=1e-5, rtol=1e-4)
    assert attention.maps.shape == (2, len(blocks), attention.weights[0].shape[1], *attention.features.grid)


def test_only_requested_layers_compute_attention_weights(tiny: Backbone) -> None:
    calls = []
    backbone = token_backbone(tiny)
    for index, block in enumerate(backbone.blocks):

        def counted(*args, _original=block.attention_weights, _index=index, **kwargs):
            calls.append(_index)
            return _original(*args, **kwargs)

        block.attention_weights = counted
    attention = attention_maps(tiny, noise_images(tiny), layers=[-1])
    assert calls == attention.layers == [len(backbone.blocks) - 1]
    assert len(attention.weights) == 1
    calls.clear()
    explanation.explain("foreground", ExplainInputs(tiny, noise_images(tiny)), layer=0)
    assert calls == [0]


def test_capturing_attention_does_not_change_the_model(tiny: Backbone) -> None:
    images = noise_images(tiny)
    with torch.no_grad():
        before = tiny(images)
    tiny.train()
    frozen = next(tiny.modules()).get_submodule("head")
    frozen.eval()
    attention = attention_maps(tiny, images)
    assert tiny.training
    assert not frozen.training
    assert not any(block._forward_pre_hooks for block in tiny.modules())
    tiny.eval()
    with torch.no_grad():
        torch.testing.assert_close(tiny(images), before, atol=0, rtol=0)
        torch.testing.assert_close(tiny.features(images).tokens, attention.features.tokens, atol=0, rtol=0)


def test_hooks_are_removed_after_an_error() -> None:
    model = small("vit")
    with pytest.raises(ValueError, match="smaller than one patch"):
        attention_maps(model, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="class 9 is out of range: the model has classes 0 to 4"):
        class_attention(model, noise_images(model), [9, 9])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_patch_maps_of_both_queries() -> None:
    features = Features(tokens=torch.zeros(1, 6, 4), grid=(2, 2), num_special=2)
    weights = torch.rand(1, 6, 6)
    from_class = patch_map(weights, features, "class")
    from_patches = patch_map(weights, features, "patches")
    for index, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert from_class[0, row, column] == weights[0, 0, 2 + index]
        mean = sum(weights[0, query, 2 + index] for query in range(2, 6)) / 4
        torch.testing.assert_close(from_patches[0, row, column], mean)


@pytest.mark.parametrize(
    ("family", "query"),
    [("vit", "class"), ("axial", "patches"), ("beit", "patches"), ("mae", "patches"), ("dinov3", "class")],
)
def test_the_query_and_the_title_follow_the_pooling(family: str, query: str) -> None:
    model = small(family)
    images = noise_images(model)
    assert find_query(token_backbone(model), model.features(images)) == query
    title = explanation.explain("rollout", ExplainInputs(model, images)).drawing.title
    assert ("the class token" in title) == (query == "class")
    assert ("the head reads no class token" in title) == (query == "patches")


# pca needs features only, and gradient is Grad-CAM.
@pytest.mark.parametrize("method", [name for name in explanation.methods() if name not in ("gradient", "pca")])
def test_a_network_without_tokens_raises(stages: Backbone, method: str) -> None:
    with pytest.raises(
        ValueError, match=r"has convolutional stages instead .* use the method gradient \(Grad-CAM\) or pca"
    ):
        explanation.explain(method, ExplainInputs(stages, noise_images(stages)))


def test_layers_and_heads_out_of_range_raise() -> None:
    model = small("vit")
    subject = ExplainInputs(model, noise_images(model))
    with pytest.raises(ValueError, match="layer 2 is out of range: the model has layers 0 to 1"):
        attention_maps(model, subject.pixels, [2])
    for method in ("attention", "foreground"):
        with pytest.raises(ValueError, match=r"head 2 is out of range: .* heads 0 to 1"):
            explanation.explain(method, subject, head=2)
