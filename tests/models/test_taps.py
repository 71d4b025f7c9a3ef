"""Outputs of chosen blocks (`Backbone.features` with `blocks`): the contract of every family, and two oracles."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from torch import Tensor, nn

from vitkit import models
from vitkit.checkpoints import load
from vitkit.inference import Classifier
from vitkit.models import TokenBackbone

FAMILIES = models.families()


def deeper(name: str) -> Any:
    config = models.family(name).TINY
    if hasattr(config, "depth"):
        return replace(config, depth=3)
    return replace(config, depths=(1, 2, 1), **({"widths": (16, 24, 32)} if hasattr(config, "widths") else {}))


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> models.Backbone:
    torch.manual_seed(0)
    built = models.build(deeper(request.param)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built


def images_of(model: models.Backbone) -> Tensor:
    rows, columns = model.config.image_size
    return torch.randn(2, model.config.channels, rows, columns * 2)


def points(model: models.Backbone) -> nn.Module:
    """The modules whose outputs are taps."""
    return model.blocks if isinstance(model, TokenBackbone) else model.get_submodule("stages")


def observed(model: models.Backbone, images: Tensor) -> list[Tensor]:
    """Oracle: the outputs of the modules, by hooks."""
    found: list[Tensor] = []
    hooks = [
        each.register_forward_hook(lambda _, __, output: found.append(output)) for each in points(model).children()
    ]
    model.features(images)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def test_taps_are_the_outputs_of_the_blocks(model: models.Backbone) -> None:
    images = images_of(model)
    expected = observed(model, images)
    depth = len(expected)
    plain = model.features(images)
    features = model.features(images, blocks=(1, -1, 0))
    assert torch.equal(features.tokens, plain.tokens)
    assert (features.grid, features.num_special) == (plain.grid, plain.num_special)
    assert plain.taps == ()
    for tap, index in zip(features.taps, (1, depth - 1, 0), strict=True):
        output = expected[index]
        assert torch.equal(tap, output if output.ndim == 3 else output.flatten(2).transpose(1, 2))
    maps = model.features(images, blocks=2, as_maps=True).taps
    for tap, output in zip(maps, expected[-2:], strict=True):
        if output.ndim == 3:
            patches = output[:, plain.num_special :]
            output = patches.transpose(1, 2).unflatten(2, plain.grid)
        assert torch.equal(tap, output)
    assert maps[-1].shape == (2, model.width, *plain.grid)
    assert torch.equal(model.logits(features), model(images))


@torch.no_grad()
def test_the_final_norm_of_the_last_block_gives_the_tokens(model: models.Backbone) -> None:
    features = model.features(images_of(model), blocks=[-1], norm=True)
    torch.testing.assert_close(features.taps[0], features.tokens, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_pass_stops_after_the_last_chosen_block(model: models.Backbone) -> None:
    images = images_of(model)
    expected = model.features(images, blocks=(0, 1)).taps
    runs: list[int] = []
    for index, module in enumerate(points(model).children()):
        module.register_forward_hook(lambda *_, index=index: runs.append(index))
    features = model.features(images, blocks=(0, 1), intermediates_only=True)
    assert runs == [0, 1]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features.taps, expected, strict=True))
    assert torch.equal(features.tokens, expected[1])
    assert features.map.shape[2:] == features.grid


def test_gradients_reach_the_images_through_a_tap(model: models.Backbone) -> None:
    images = images_of(model).requires_grad_()
    model.features(images, blocks=(0,), as_maps=True, intermediates_only=True).taps[0].square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((9,), r"there is no block 9: this model has blocks 0 to 2, or -3 to -1"),
        ((-4,), r"there is no block -4"),
        ((), r"blocks is empty"),
        (4, r"it must be between 1 and the depth, 3"),
        (0, r"it must be between 1 and the depth, 3"),
    ],
)
def test_blocks_that_do_not_exist_are_rejected(blocks: Any, message: str) -> None:
    model = models.build(deeper("vit"))
    with pytest.raises(ValueError, match=message):
        model.features(images_of(model), blocks=blocks)


def test_options_without_blocks_and_unknown_options_are_rejected() -> None:
    model = models.build(deeper("vit"))
    with pytest.raises(ValueError, match=r"as_maps needs blocks"):
        model.features(images_of(model), as_maps=True)
    with pytest.raises(TypeError, match=r"unknown options \['reshape'\]"):
        model.features(images_of(model), blocks=1, reshape=True)  # type: ignore[call-arg]


def test_heads_that_read_several_blocks_are_unaffected() -> None:
    model = models.build(replace(deeper("vit"), pool_blocks=2)).eval()
    images = images_of(model)
    assert torch.equal(model.logits(model.features(images, blocks=(0,))), model(images))
    assert model.features(images, blocks=(0,), intermediates_only=True).earlier is None


def test_a_classifier_passes_blocks_on_and_features_join_and_slice() -> None:
    model = models.build(deeper("vit")).eval()
    classifier = Classifier(model, None, tuple("abcde"))  # type: ignore[arg-type]
    images = images_of(model)
    features = classifier.features(images, blocks=(0, 1), as_maps=True)
    halves = [classifier.features(images[i : i + 1], blocks=(0, 1), as_maps=True) for i in range(2)]
    joined = type(features).join(halves)
    for one, other in zip(joined.taps, features.taps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert [tap.shape[0] for tap in features.each(lambda tensor: tensor[:1]).taps] == [1, 1]


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
def test_taps_match_timm(norm: bool) -> None:
    timm = oracle("timm")
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", **size).eval()
    config = replace(deeper("vit"), mlp_width=128, norm_eps=1e-6)
    ours = models.build(config).eval()
    ours.load_state_dict(theirs.state_dict())
    images = images_of(ours)[..., :32]
    expected = theirs.forward_intermediates(images, indices=[0, 2], norm=norm, intermediates_only=True)
    found = ours.features(images, blocks=[0, 2], as_maps=True, norm=norm).taps
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    pairs = theirs.get_intermediate_layers(images, n=2, return_prefix_tokens=True, norm=norm)
    tokens = ours.features(images, blocks=2, norm=norm).taps
    for one, (patches, prefix) in zip(tokens, pairs, strict=True):
        torch.testing.assert_close(one, torch.cat([prefix, patches], dim=1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stages_match_timm() -> None:
    timm = oracle("timm")
    torch.manual_seed(0)
    conv = partial(timm.layers.StdConv2d, eps=1e-8)
    sizes = {"layers": (1, 1, 1, 1), "num_classes": 5, "stem_type": "fixed", "conv_layer": conv}
    theirs = timm.models.resnetv2.ResNetV2(**sizes).eval()
    ours = models.build(models.preset("bit-r50x1", depths=(1, 1, 1, 1), num_classes=5, weight_eps=1e-8)).eval()
    state = {name.replace("head.fc", "head"): each for name, each in theirs.state_dict().items()}
    ours.load_state_dict({name: each.flatten(1) if name == "head.weight" else each for name, each in state.items()})
    images = torch.randn(1, 3, 64, 96)
    expected = theirs.forward_intermediates(images, indices=[1, 2, 3, 4], norm=False, intermediates_only=True)
    found = ours.features(images, blocks=4, as_maps=True).taps
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_taps_match_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    transformers = oracle("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    theirs = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path).model.eval()
    images = torch.randn(2, 3, 32, 32)
    expected = theirs(images, output_hidden_states=True).hidden_states[1:]
    for one, other in zip(ours.features(images, blocks=3).taps, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
