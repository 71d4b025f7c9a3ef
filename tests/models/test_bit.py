"""BiT ResNets against timm's classes, and details of their stem and norm order."""

from functools import partial

import pytest
import torch
from oracles import oracle
from torch import Tensor

from vitkit import models
from vitkit.layers import GroupNorm, PostBottleneck, PreBottleneck, StdConv
from vitkit.models import bit, hybrid

TIMM = {
    "resnetv2_50x1_bit": "bit-r50x1",
    "resnetv2_50x3_bit": "bit-r50x3",
    "resnetv2_101x1_bit": "bit-r101x1",
    "resnetv2_101x3_bit": "bit-r101x3",
    "resnetv2_152x2_bit": "bit-r152x2",
    "resnetv2_152x4_bit": "bit-r152x4",
}


def from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Converts timm's state dict: the final 1x1 convolution becomes a linear layer."""
    named = {key.replace("head.fc.", "head."): value for key, value in state.items()}
    return {key: value.flatten(1) if key == "head.weight" else value for key, value in named.items()}


@pytest.mark.parametrize(("timm_name", "name"), TIMM.items())
def test_names_and_shapes_match_timm(timm_name: str, name: str) -> None:
    timm = oracle("timm")

    with torch.device("meta"):
        theirs = from_timm(timm.create_model(timm_name).state_dict())
    ours = models.build(models.preset(name), device="meta").state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bit-r50x1", 25_549_352), ("bit-r50x2", 97_988_712), ("bit-r152x1", 60_185_128), ("bit-r200x3", 568_633_000)],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    config = models.preset(name)
    model = models.build(config, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters == _count(config)


def _count(config: bit.Config) -> int:
    """Counts the parameters: convolutions have no bias, a norm has two vectors, the head is a linear layer."""
    total, in_width = 49 * config.channels * config.stem_width, config.stem_width
    for stage, depth in enumerate(config.depths):
        width = config.stem_width * 2**stage
        for unit in range(depth):
            total += in_width * width + 9 * width * width + width * 4 * width
            total += 2 * (in_width + width + width)
            total += in_width * 4 * width if unit == 0 else 0
            in_width = 4 * width
    return total + 2 * in_width + (in_width + 1) * config.num_classes


def test_equals_timm_with_its_epsilon() -> None:
    timm_layers = oracle("timm.layers")
    timm_resnet = oracle("timm.models.resnetv2")

    timm_conv = partial(timm_layers.StdConv2d, eps=1e-8)
    channels = (128, 256, 512, 1024)
    theirs = timm_resnet.ResNetV2([2, 1, 3, 1], channels, 7, stem_chs=32, stem_type="fixed", conv_layer=timm_conv)
    _equal(theirs, bit.Config(depths=(2, 1, 3, 1), stem_width=32, num_classes=7, weight_eps=1e-8))


@pytest.mark.slow
@pytest.mark.parametrize("timm_name", ["resnetv2_50x1_bit", "resnetv2_101x1_bit"])
def test_equals_timm_at_full_size(timm_name: str) -> None:
    timm = oracle("timm")

    theirs = timm.create_model(timm_name, num_classes=7)
    _equal(theirs, models.preset(TIMM[timm_name], num_classes=7, weight_eps=1e-8))


def _equal(theirs: torch.nn.Module, config: bit.Config) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.eval().named_parameters():
            parameter.add_((0.02 if name.startswith("head") else 0.1) * torch.randn_like(parameter))
    ours = models.build(config, initialize=False).eval()
    ours.load_state_dict(from_timm(theirs.state_dict()))
    for rows, columns in [(64, 64), (65, 98)]:
        images = torch.randn(2, 3, rows, columns)
        with torch.no_grad():
            expected = theirs(images)
            torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=0)
            features, expected_map = ours.features(images), theirs.forward_features(images)
        # Before the final mean, rounding errors grow with the depth and the magnitude of the values.
        torch.testing.assert_close(features.map, expected_map, atol=1e-4 * expected_map.max().item(), rtol=0)
        assert expected.std() > 0.1
        assert features.num_special == 0


def test_the_zero_padding_of_the_pooling_can_be_the_maximum() -> None:
    model = models.build(bit.TINY).eval()
    images = torch.randn(1, 3, 40, 40)
    # All values of the map are negative: the zeros of the padding are the maximum at the border.
    model.stem.conv.forward = lambda x: -torch.ones(1, 8, 20, 20)
    pooled = model.stem(images)
    assert (pooled[:, :, 0] == 0).all()
    assert (pooled[:, :, :, 0] == 0).all()
    assert (pooled[:, :, 1:, 1:] == -1).all()


def test_the_post_activation_order_equals_the_resnet_of_the_hybrids() -> None:
    torch.manual_seed(0)
    backbone = models.build(hybrid.TINY).patch_embed.backbone
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = bit.Config(
        image_size=(36, 32),
        depths=hybrid.TINY.depths,
        stem_width=hybrid.TINY.stem_width,
        num_groups=hybrid.TINY.num_groups,
        num_classes=0,
        order="post",
        padding="same",
        norm_eps=1e-6,
        weight_eps=1e-5,
        weight_eps_on="std",
    )
    model = models.build(config, initialize=False)
    model.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 36, 32)
    torch.testing.assert_close(model.features(images).map, backbone(images))
    torch.testing.assert_close(model(images), backbone(images).mean(dim=(2, 3)))


def test_the_input_of_the_shortcut_depends_on_the_order() -> None:
    torch.manual_seed(0)

    def conv(*sizes: int) -> StdConv:
        return StdConv(*sizes, eps_on="variance")

    def norm(width: int, initial: float = 1.0) -> GroupNorm:
        return GroupNorm(2, width, eps=1e-5, initial=initial)

    x = torch.randn(1, 4, 6, 6)
    pre = PreBottleneck(4, 4, 2, conv=conv, norm=norm)
    torch.nn.init.zeros_(pre.norm3.weight)  # disables the branch: its output is zero
    torch.testing.assert_close(pre(x), pre.downsample.conv(pre.norm1(x).relu()))
    post = PostBottleneck(4, 4, 2, conv=conv, norm=norm)
    torch.nn.init.zeros_(post.norm3.weight)
    torch.testing.assert_close(post(x), post.downsample.norm(post.downsample.conv(x)).relu())


@pytest.mark.parametrize("eps_on", ["std", "variance"])
def test_standardized_filters_do_not_depend_on_scale_and_shift(eps_on: str) -> None:
    conv = StdConv(8, 8, 3, eps=1e-10, eps_on=eps_on)
    before = conv.standardized_weight()
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
    torch.testing.assert_close(conv.standardized_weight(), before, atol=1e-4, rtol=0)


def test_config_grid_equals_the_grid_of_the_features() -> None:
    for size in [(40, 40), (33, 50), (1, 7), (47, 64)]:
        for padding in ("same", "symmetric"):
            config = models.configs.override(bit.TINY, {"image_size": size, "padding": padding})
            assert models.build(config).eval().features(torch.randn(1, 3, *size)).grid == config.grid


def test_unsupported_configs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"depths is \(\); expected at least 1 stage"):
        bit.Config(depths=())
    with pytest.raises(ValueError, match=r"stem_width 16 is not a positive multiple of num_groups 32"):
        bit.Config(stem_width=16)
    with pytest.raises(ValueError, match=r"takes images with 3 channels, but the images have 4"):
        models.build(bit.TINY)(torch.zeros(1, 4, 40, 40))
