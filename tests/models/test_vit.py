"""The plain ViT against its published sizes, and its forward pass against the paper's equations in float64."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from vitkit import models
from vitkit.models.vit import Config

# Asserted by the tests of google-research/vision_transformer: 1000 classes, 224 pixels.
PAPER = {
    "vit-ti/16": 5_717_416,
    "vit-s/16": 22_050_664,
    "vit-s/32": 22_878_952,
    "vit-b/8": 86_576_872,
    "vit-b/16": 86_567_656,
    "vit-b/32": 88_224_232,
    "vit-l/16": 304_326_632,
    "vit-l/32": 306_535_400,
    "vit-h/14": 632_045_800,
}
GAP = {"vit-s/16": 22_049_896, "vit-s/32": 22_878_184, "vit-b/16": 86_566_120, "vit-b/32": 88_222_696}
# big_vision: no head, learned positions, mean of the patches; second number with the MAP head, if known.
BIG_VISION = {
    "vit-ti/16": (5_524_032, None),
    "vit-s/16": (21_664_896, None),
    "vit-m/16": (38_323_712, None),
    "vit-b/16": (85_797_120, None),
    "vit-l/16": (303_299_584, None),
    "vit-so400m/14": (412_442_352, 427_680_704),
    "vit-h/14": (630_762_240, None),
    "vit-g/14": (1_011_199_616, 1_036_448_384),
    "vit-g-opt/16": (1_134_746_112, 1_163_076_096),
    "vit-G/14": (1_842_772_352, 1_881_132_416),
    "vit-G-opt/14": (1_663_302_144, None),
    "vit-e/14": (3_805_417_728, None),
}


def count(config: Config) -> int:
    return sum(parameter.numel() for parameter in models.build(config, device="meta").parameters())


@pytest.mark.parametrize("name", PAPER)
def test_parameters_of_the_paper(name: str) -> None:
    assert count(models.preset(name)) == PAPER[name]


@pytest.mark.parametrize("name", GAP)
def test_parameters_with_global_average_pooling(name: str) -> None:
    assert count(models.preset(name, pool="gap", class_token=False)) == GAP[name]


@pytest.mark.parametrize("name", BIG_VISION)
def test_parameters_of_big_vision(name: str) -> None:
    backbone, with_map = BIG_VISION[name]
    gap = models.preset(name, pool="gap", class_token=False, num_classes=0)
    assert count(gap) == backbone
    if with_map:
        assert count(dataclasses.replace(gap, pool="map")) == with_map


def test_parameters_of_the_better_plain_vit() -> None:
    plain = models.preset("vit-s/16", pool="gap", class_token=False, position="sincos2d")
    assert count(plain) == 21_974_632
    assert count(dataclasses.replace(plain, pre_logits=384)) == 22_122_472


def test_parameters_of_the_original_test_configs() -> None:
    tiny = Config(width=10, depth=1, num_heads=2, mlp_width=10)
    assert count(tiny) == 21_390
    assert count(dataclasses.replace(tiny, class_token=False, pool="none")) == 21_370


def reference(state: dict[str, np.ndarray], image: np.ndarray, config: Config) -> np.ndarray:
    """Computes equations 1-4 of the paper for one image (c, height, width), with loops in float64."""
    patch_rows, patch_columns = config.patch_size
    kernel = state["patch_embed.proj.weight"].reshape(config.width, -1)
    tokens = [state["cls_token"][0, 0]]
    for row in range(image.shape[1] // patch_rows):
        for column in range(image.shape[2] // patch_columns):
            patch = image[:, row * patch_rows :, column * patch_columns :][:, :patch_rows, :patch_columns]
            tokens.append(kernel @ patch.ravel() + state["patch_embed.proj.bias"])
    x = np.stack(tokens) + state["pos_embed"][0]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centered = x - x.mean(axis=-1, keepdims=True)
        variance = (centered**2).mean(axis=-1, keepdims=True)
        return centered / np.sqrt(variance + config.norm_eps) * state[f"{name}.weight"] + state[f"{name}.bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    erf = np.vectorize(math.erf)
    size = config.width // config.num_heads
    for block in range(config.depth):
        name = f"blocks.{block}"
        qkv = dense(norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        heads = []
        for head in range(config.num_heads):
            q, k, v = (qkv[:, part * config.width + head * size :][:, :size] for part in range(3))
            logits = q @ k.T / math.sqrt(size)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
        x = x + dense(np.concatenate(heads, axis=1), f"{name}.attn.proj")
        hidden = dense(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        x = x + dense(hidden, f"{name}.mlp.fc2")
    return dense(norm(x, "norm")[0], "head")


@pytest.mark.parametrize("size", [(32, 32), (16, 40)], ids=str)
def test_forward_matches_the_equations_of_the_paper(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = Config(
        image_size=size, patch_size=(8, 8), width=24, depth=2, num_heads=3, mlp_width=40, num_classes=5, norm_eps=1e-6
    )
    model = models.build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(2, 3, *size)
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    expected = np.stack([reference(state, image, config) for image in images.double().numpy()])
    np.testing.assert_allclose(model(images).detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(model.double()(images.double()).detach().numpy(), expected, atol=1e-11)


def test_a_remainder_that_does_not_fill_a_patch_is_ignored_at_the_native_size_only() -> None:
    model = models.build(models.preset("vit-mu/16", image_size=47, num_classes=3)).eval()
    torch.nn.init.normal_(model.head.weight)
    images = torch.randn(1, 3, 47, 47)
    assert torch.equal(model(images), model(images[:, :, :32, :32]))
    with pytest.raises(ValueError, match="images of 47x46 pixels do not consist of patches of 16x16 pixels"):
        model(images[:, :, :, :46])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "not a multiple of the number of heads 5"),
        ({"class_token": False}, "pool='token' reads the class token"),
        ({"depth": 0}, "depth is 0"),
        ({"image_size": 8}, "smaller than one patch"),
        ({"pool": "mean"}, "expected one of 'token', 'gap', 'map', 'none'"),
        ({"pool": "none", "norm": "pooled"}, "needs a pool"),
    ],
)
def test_unsupported_configs_are_rejected_with_the_field_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.preset("vit-b/16", **changes)


def test_stochastic_depth_grows_linearly_and_is_off_in_evaluation() -> None:
    model = models.build(models.preset("vit-mu/16", depth=5, stochastic_depth=0.4, image_size=32))
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    images = torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model.features(images).tokens, model.features(images).tokens)
    model.train()
    assert not torch.equal(model.features(images).tokens, model.features(images).tokens)
