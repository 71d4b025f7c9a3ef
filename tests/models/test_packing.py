"""Packed images of random sizes: the logits of each image equal those without packing."""

import dataclasses

import pytest
import torch

from vitkit import models
from vitkit.layers import Packed
from vitkit.models import _packing, beit, dino, dinov3, vit

TOKENS = dataclasses.replace(vit.TINY, image_size=(24, 32))
VARIANTS = {
    **{name: models.family(name).TINY for name in ("vit", "hybrid", "deit", "beit", "dino", "dinov3", "mae")},
    "gap": dataclasses.replace(TOKENS, pool="gap", class_token=False, norm="pooled"),
    "map": dataclasses.replace(TOKENS, pool="map", pre_logits=16),
    "bicubic": dataclasses.replace(TOKENS, position_resize="bicubic"),
    "antialias": dataclasses.replace(TOKENS, position_resize="bicubic_antialias", qk_norm=True),
    "factorized": dataclasses.replace(TOKENS, position="factorized"),
    "layers": dataclasses.replace(TOKENS, position_at="layers", num_registers=2),
    "shared": dataclasses.replace(TOKENS, position="factorized", position_at="shared"),
    "relative": dataclasses.replace(TOKENS, position="relative"),
    "sincos": dataclasses.replace(TOKENS, position="sincos2d"),
    "beit shared": dataclasses.replace(beit.TINY, relative="shared"),
    "dinov3 no bias": dataclasses.replace(dinov3.TINY, qkv_bias=False),
}


def build_random(config) -> models.Backbone:
    torch.manual_seed(0)
    model = models.build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def random_images(model: models.Backbone, seed: int = 0, number: int = 7) -> list[torch.Tensor]:
    """Images of random sizes, multiples of the patch size; the last two have the same size."""
    generator = torch.Generator().manual_seed(seed)
    side = model.config.patch_size[0]
    sizes = [tuple((side * torch.randint(1, 5, (2,), generator=generator)).tolist()) for _ in range(number - 2)]
    sizes += [(2 * side, 3 * side), (2 * side, 3 * side)]
    return [torch.randn(model.config.channels, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_logits_and_features_of_packed_images_equal_those_of_single_images(name: str) -> None:
    model = build_random(VARIANTS[name])
    images = random_images(model)
    expected_logits = torch.cat([model(image[None]) for image in images])
    for tokens in (_packing.TOKENS, 30):
        torch.testing.assert_close(_packing.logits(model, images, tokens=tokens), expected_logits, atol=1e-5, rtol=1e-4)
    for image, features in zip(images, _packing.features(model, images), strict=True):
        expected = model.features(image[None])
        assert features.grid == expected.grid
        assert features.num_special == expected.num_special
        torch.testing.assert_close(features.tokens, expected.tokens, atol=1e-5, rtol=1e-4)
        assert (features.earlier is None) == (expected.earlier is None)
        if features.earlier is not None:
            torch.testing.assert_close(features.earlier, expected.earlier, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_images_of_a_pack_do_not_affect_each_other() -> None:
    model = build_random(TOKENS)
    images = random_images(model)
    before = _packing.logits(model, images)
    changed = [images[0] + 5.0, *images[1:]]
    after = _packing.logits(model, changed)
    assert (after[0] - before[0]).abs().max() > 1e-3
    torch.testing.assert_close(after[1:], before[1:], atol=1e-6, rtol=1e-6)
    shuffled = _packing.logits(model, images[::-1])
    torch.testing.assert_close(shuffled.flip(0), before, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_single_images() -> None:
    model = build_random(dataclasses.replace(TOKENS, pool="gap", position="relative"))
    images = random_images(model)
    _packing.logits(model, images).square().sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    sum(model(image[None]).square().sum() for image in images).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-3, rtol=1e-3)


def test_stochastic_depth_drops_complete_images() -> None:
    model = build_random(dataclasses.replace(TOKENS, stochastic_depth=0.5, position="none"))
    block = model.blocks[1].train()
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight.zero_()
        model.blocks[1].mlp.fc2.bias.zero_()
        packed = _packing.pack(model, random_images(model, number=40))
        changed = block.packed(
            packed.tokens, packed.shapes, list(model.position_inputs((3, 4)))[:1] * len(packed.shapes)
        )
    same = packed.with_tokens((changed == packed.tokens).float()).split()
    unchanged = torch.cat([group.tokens.flatten(1).mean(dim=1) for group in same])
    assert 8 <= (unchanged == 1).sum() <= 32
    assert ((unchanged == 1) | (unchanged < 0.1)).all()


def test_models_and_images_that_cannot_be_packed_are_rejected() -> None:
    for name, message in (("axial", "need one grid at a time"), ("bit", "does not process tokens")):
        model = build_random(models.family(name).TINY)
        with pytest.raises(ValueError, match=message):
            _packing.logits(model, [torch.randn(3, 48, 48), torch.randn(3, 48, 64)])
    model = build_random(dataclasses.replace(TOKENS, pool="none"))
    with pytest.raises(ValueError, match="the number of logits differs"):
        _packing.logits(model, random_images(model))
    assert len(_packing.features(model, random_images(model))) == 7
    with pytest.raises(ValueError, match="smaller than one patch"):
        _packing.logits(build_random(dino.TINY), [torch.randn(3, 4, 32)])
    with pytest.raises(ValueError, match="no images to pack"):
        _packing.logits(model=build_random(dino.TINY), images=[])
    with pytest.raises(ValueError, match="same number of special tokens"):
        Packed.join([])


def test_a_pack_has_no_padding() -> None:
    model = build_random(TOKENS)
    images = random_images(model)
    packed = _packing.pack(model, images)
    rows = [1 + (image.shape[1] // 8) * (image.shape[2] // 8) for image in images]
    assert packed.tokens.shape == (sum(rows), 32)
    assert sorted(length for count, length in packed.shapes for _ in range(count)) == sorted(rows)
