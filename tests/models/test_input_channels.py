"""Any number of input channels: RGB weights adapted as timm does, and errors for images of a wrong shape or dtype."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from oracles import oracle
from random_weights import random

from vitkit import models
from vitkit.layers import StdConv, adapt_input_weight


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_adapted_weights_equal_timm(channels: int, dtype: torch.dtype) -> None:
    adapt_input_conv = oracle("timm.models._manipulate").adapt_input_conv
    weight = torch.randn(8, 3, 4, 6).to(dtype)
    torch.testing.assert_close(
        adapt_input_weight(weight, channels), adapt_input_conv(channels, weight.clone()), rtol=0, atol=0
    )


@pytest.mark.parametrize("family", models.families())
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_every_family_is_adapted(family: str, channels: int) -> None:
    config = models.family(family).TINY
    model = random(models.build(config))
    gray = torch.randn(2, 1, *config.image_size, generator=torch.Generator().manual_seed(1))
    before = model(gray.expand(-1, 3, -1, -1))
    model.adapt_channels(channels)
    assert model.config.channels == channels
    # The sum of the weights gives the output of the gray image; standardized weights have another sum.
    after = model(gray.expand(-1, channels, -1, -1))
    standardized = any(isinstance(module, StdConv) for module in model.modules())
    if channels == 1 and not standardized:
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert after.shape == before.shape
    # The adapted model is that of its config.
    again = models.build(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(gray.expand(-1, channels, -1, -1)), after)


def test_only_rgb_weights_are_adapted() -> None:
    model = models.build(models.family("vit").TINY)
    model.adapt_channels(4)
    with pytest.raises(
        ValueError, match=r"only weights for 3 channels \(RGB\) can be adapted to 2 channels, not weights for 4"
    ):
        model.adapt_channels(2)
    assert model.config.channels == 4


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """Disables the shape checks of the tests, which reject such images before the model does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("family", models.families())
def test_images_of_a_wrong_shape_or_dtype_are_named(family: str) -> None:
    config = models.family(family).TINY
    model = models.build(config)
    with pytest.raises(
        ValueError, match=r"must have the shape \(batch, channels, height, width\), got .*images\[None\]"
    ):
        model(torch.zeros(3, *config.image_size))
    with pytest.raises(ValueError, match=r"takes images with 3 channels, but the images have 4"):
        model(torch.zeros(1, 4, *config.image_size))
    with pytest.raises(ValueError, match=r"normalized floating-point tensors, got torch.uint8"):
        model(torch.zeros(1, 3, *config.image_size, dtype=torch.uint8))


@pytest.mark.parametrize("family", models.families())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_floating_images_get_the_dtype_of_the_weights(family: str, dtype: torch.dtype) -> None:
    config = models.family(family).TINY
    model = random(models.build(config)).to(dtype)
    images = torch.randn(1, 3, *config.image_size)
    assert torch.equal(model(images), model(images.to(dtype)))
