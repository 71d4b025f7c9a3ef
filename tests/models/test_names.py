"""Names of architectures of other libraries, and similar names in errors."""

import pytest
import torch
from oracles import oracle
from slow_cases import slow_except

from vitkit import models
from vitkit.checkpoints.formats.timm._architectures import architectures

NAMES = {
    "vit_base_patch16_224": ("vit-b/16", 224),
    "vit_base_patch16_384.augreg_in1k": ("vit-b/16", 384),
    "timm/vit_tiny_patch16_224.augreg_in21k": ("vit-ti/16", 224),
    "google/vit-base-patch16-224": ("vit-b/16", 224),
    "google/vit-large-patch32-384": ("vit-l/32", 384),
    "google/vit-huge-patch14-224-in21k": ("vit-h/14", 224),
    "facebook/deit-tiny-patch16-224": ("deit-ti/16", 224),
    "facebook/deit-base-distilled-patch16-384": ("deit-b/16-distilled-384", 384),
    "microsoft/beit-base-patch16-224-pt22k-ft22k": ("beit-b/16", 224),
    "facebook/dinov2-base": ("dinov2-b/14", 518),
    "facebook/dinov2-with-registers-small": ("dinov2-s/14-reg", 518),
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("dinov3-s/16", 224),
    "facebook/vit-mae-base": ("mae-b/16", 224),
    "facebook/vit-msn-base-4": (None, None),
    "microsoft/resnet-50": ("resnet50", 224),
    "resnet50.a1_in1k": ("resnet50", 224),
    "resnetv2_50x1_bit": ("bit-r50x1", 224),
    "vit_base_r50_s16_384": ("r50+vit-b/16", 384),
    "vit_b_16": ("vit-b/16", 224),
    "ViT-B/16": ("vit-b/16", 224),
    "ViT-G/14": ("vit-G/14", 224),
    "ViT-g/14": ("vit-g/14", 224),
    "vit-ti/16": ("vit-ti/16", 224),
    "vit_base_patch16_siglip_224": (None, None),
    "google/siglip-base-patch16-224": (None, None),
    "somebody/flowers": (None, None),
    "": (None, None),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names_of_other_libraries_mean_an_architecture(name: str, expected: tuple[str | None, int | None]) -> None:
    preset, size = expected
    assert models.canonical_name(name) == preset
    if preset is None:
        with pytest.raises(ValueError, match="unknown model"):
            models.preset(name)
        return
    assert models.preset(name).image_size == (size, size)
    assert models.preset(name, image_size=64, num_classes=3).image_size == (64, 64)
    assert type(models.preset(name)) is type(models.presets()[preset])


@pytest.mark.parametrize(
    "name",
    slow_except(
        [each for each in architectures() if models.canonical_name(each)],
        *("vit_base_patch16_384", "deit_tiny_distilled_patch16_224", "vit_small_r26_s32_224", "resnetv2_50x1_bit"),
        *("vit_small_plus_patch16_dinov3", "vit_small_patch14_reg4_dinov2", "beitv2_base_patch16_224"),
    ),
)
def test_an_architecture_of_timm_has_as_many_parameters_as_in_timm(name: str) -> None:
    """timm has no mask tokens, and DINOv3's key biases of zero are buffers there."""
    timm = oracle("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = models.build(models.preset(name, num_classes=theirs.num_classes), device="meta")
    counts = [sum(each.numel() for each in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == pytest.approx(counts[1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit-b/15", "'vit-b/16'"),
        ("vit-l/17", "'vit-l/16'"),
        ("deit-b/17", "'deit-b/16'"),
        ("dinov2-b/16", "'dinov2-b/14'"),
        ("vit_large_patch15_224", "'vit-l/16'"),
        ("vit_lagre_patch16_224", "'vit-l/16'"),
        ("google/vit-basee-patch16-224", "'vit-b/16'"),
        ("vit-b16", "'vit-b/16'"),
        ("resnet51", "'resnet50'"),
        ("r50+vit-b/15", "'r50+vit-b/16'"),
    ],
)
def test_similar_names_are_of_the_same_size(name: str, near: str) -> None:
    with pytest.raises(ValueError, match="unknown model") as caught:
        models.preset(name)
    assert str(caught.value).partition("did you mean ")[2].split(" or ")[0].rstrip("?") == near


def test_a_name_like_no_other_is_told_where_names_are_listed() -> None:
    with pytest.raises(ValueError, match="unknown model 'qqqq'; `vitkit models` lists the architectures"):
        models.preset("qqqq")
