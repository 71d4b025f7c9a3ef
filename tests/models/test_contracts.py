"""The contract of `models`, for every family and preset."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from vitkit import config as configs
from vitkit import models
from vitkit.layers import Features

FAMILIES = models.families()


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> models.Backbone:
    """A small model of each family in evaluation mode, with noise added so that no parameter is zero."""
    torch.manual_seed(0)
    return perturbed(models.build(models.family(request.param).TINY)).eval()


def perturbed(model: models.Backbone) -> models.Backbone:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def random_images(model: models.Backbone, batch: int = 2, factor: tuple[float, float] = (1, 1)) -> Tensor:
    rows, columns = model.config.image_size
    return torch.randn(batch, model.config.channels, int(rows * factor[0]), int(columns * factor[1]))


def test_a_family_is_one_file_with_config_model_presets_and_tiny() -> None:
    for name in FAMILIES:
        family = models.family(name)
        assert dataclasses.is_dataclass(family.Config)
        assert isinstance(models.build(family.TINY, device="meta"), models.Backbone)
        assert family.PRESETS
        # A preset can be another family's config: DeiT without its distillation token is a plain ViT.
        modules = {type(config).__module__ for config in [family.TINY, *family.PRESETS.values()]}
        assert modules <= {family.Config.__module__, "vitkit.models.vit"}


def test_shapes(tiny: models.Backbone) -> None:
    images = random_images(tiny)
    features = tiny.features(images)
    assert isinstance(features, Features)
    assert features.tokens.shape[0] == 2
    assert features.tokens.shape[1] == features.num_special + math.prod(features.grid)
    assert features.patches.shape[2] == tiny.width
    assert features.map.shape[2:] == features.grid
    assert tiny(images).shape == (2, tiny.config.num_classes)


@pytest.mark.parametrize("factor", [(1.5, 1.5), (1, 2), (2, 1.5)], ids=str)
def test_other_sizes_square_or_not(tiny: models.Backbone, factor: tuple[float, float]) -> None:
    images = random_images(tiny, factor=factor)
    features = tiny.features(images)
    assert features.tokens.shape[1] == features.num_special + math.prod(features.grid)
    assert tiny(images).isfinite().all()


def test_an_image_does_not_depend_on_its_neighbors(tiny: models.Backbone) -> None:
    images = random_images(tiny, batch=3)
    torch.testing.assert_close(tiny(images)[1:2], tiny(images[1:2]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_init_weights_fills_everything_from_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        model = models.family(name).Model(models.family(name).TINY)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(math.nan if tensor.is_floating_point() else -1)
    model.init_weights()
    for where, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert (tensor.isfinite() & (tensor.is_floating_point() | (tensor >= 0))).all(), f"{where} was not filled"


@pytest.mark.parametrize("name", FAMILIES)
def test_init_buffers_fills_all_buffers_outside_the_state_dict(name: str) -> None:
    model = models.build(models.family(name).TINY)
    stored = set(model.state_dict())
    expected = {where: tensor.clone() for where, tensor in model.named_buffers() if where not in stored}
    with torch.no_grad():
        for where, tensor in model.named_buffers():
            if where not in stored:
                tensor.fill_(0)
    model.init_buffers()
    for where, tensor in model.named_buffers():
        if where in expected:
            assert torch.equal(tensor, expected[where])


def test_gradients_reach_every_parameter(tiny: models.Backbone) -> None:
    tiny.train()
    tiny(random_images(tiny)).square().sum().backward()
    for where, parameter in tiny.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {where}"
        assert parameter.grad.abs().sum() > 0, f"the gradient of {where} is zero"


def test_config_round_trip(tiny: models.Backbone) -> None:
    assert models.from_dict(models.to_dict(tiny.config)) == tiny.config


@pytest.mark.parametrize("name", models.presets())
def test_every_preset_builds_and_round_trips_through_json(name: str) -> None:
    config = models.preset(name)
    assert models.from_dict(models.to_dict(config)) == config
    assert sum(parameter.numel() for parameter in models.build(config, device="meta").parameters()) > 0


def test_reset_head_is_zero_and_updates_the_config(tiny: models.Backbone) -> None:
    tiny.reset_head(7)
    assert tiny.config.num_classes == 7
    logits = tiny(random_images(tiny))
    assert logits.shape == (2, 7)
    assert (logits == 0).all()
    models.build(tiny.config).load_state_dict(tiny.state_dict())
    tiny.reset_head(0)
    assert tiny(random_images(tiny)).shape == (2, tiny.pool_width)


def test_wrong_channels_and_too_small_images_are_rejected(tiny: models.Backbone) -> None:
    rows, columns = tiny.config.image_size
    with pytest.raises(ValueError, match=r"channels"):
        tiny(torch.randn(1, tiny.config.channels + 1, rows, columns))
    if isinstance(tiny, models.TokenBackbone):
        with pytest.raises(ValueError, match=r"smaller than one patch"):
            tiny(torch.randn(1, tiny.config.channels, 1, columns))


def test_token_backbones_split_into_embed_and_encode(tiny: models.Backbone) -> None:
    if not isinstance(tiny, models.TokenBackbone):
        return
    images = random_images(tiny)
    assert torch.equal(tiny.encode(tiny.embed(images)).tokens, tiny.features(images).tokens)
    assert len(tiny.blocks) > 0


def test_unknown_names_list_similar_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'vit-b/16'"):
        models.preset("vit-b16")
    with pytest.raises(ValueError, match=r"unknown key 'widht'; did you mean 'width'"):
        models.preset("vit-b/16", widht=3)
    with pytest.raises(ValueError, match=r"unknown model family 'vitt'"):
        models.from_dict({"family": "vitt"})


def test_overrides_are_typed() -> None:
    assert configs.override(models.preset("vit-b/16"), {"width": "1536"}).width == 1536
    with pytest.raises(ValueError, match=r"'width' is 'wide'; expected an integer"):
        configs.override(models.preset("vit-b/16"), {"width": "wide"})
