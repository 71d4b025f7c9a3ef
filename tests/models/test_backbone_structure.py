"""`blocks`, `layer_of`, `head_parameters` and `family` of every model family."""

import re
from dataclasses import replace

import pytest
import torch
from oracles import oracle

from vitkit import models
from vitkit.models import TokenBackbone, beit

FAMILIES = models.families()


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> models.Backbone:
    torch.manual_seed(0)
    return models.build(models.family(request.param).TINY)


def test_blocks_are_the_encoder_blocks_in_order(tiny: models.Backbone) -> None:
    names = {id(module): name for name, module in tiny.named_modules()}
    assert [names[id(block)] for block in tiny.blocks] == [f"blocks.{number}" for number in range(len(tiny.blocks))]
    assert (len(tiny.blocks) > 0) == isinstance(tiny, TokenBackbone)
    if not len(tiny.blocks):
        return
    order: list[int] = []
    for number, block in enumerate(tiny.blocks):
        block.register_forward_pre_hook(lambda *_, number=number: order.append(number))
    tiny.eval()(torch.zeros(1, tiny.config.channels, *tiny.config.image_size))
    assert order == list(range(len(tiny.blocks)))


def test_every_parameter_has_a_layer_in_range(tiny: models.Backbone) -> None:
    depth = len(tiny.blocks)
    layers = {name: tiny.layer_of(name) for name, _ in tiny.named_parameters()}
    assert set(layers.values()) <= set(range(depth + 2))
    # Every block is a layer; so are the modules before and after the blocks.
    assert set(layers.values()) == set(range(depth + 2))
    for number, block in enumerate(tiny.blocks):
        assert {tiny.layer_of(f"blocks.{number}.{name}") for name, _ in block.named_parameters()} == {number + 1}
    for name in tiny.head_parameters():
        assert layers[name] == depth + 1
    for name in layers:
        if "." not in name or re.match(r"(patch_embed|stem|stages)\.", name):
            assert layers[name] == 0, name
        elif not name.startswith("blocks."):
            assert layers[name] == depth + 1, name


def test_an_unknown_parameter_name_is_rejected(tiny: models.Backbone) -> None:
    with pytest.raises(ValueError, match=r"has no parameter 'blocks\.99\.norm1\.weight'"):
        tiny.layer_of("blocks.99.norm1.weight")


def test_head_parameters_are_those_of_every_linear_layer_to_classes(tiny: models.Backbone) -> None:
    """Oracle: the parameters whose shapes `reset_head` changes."""
    before = {name: tuple(each.shape) for name, each in tiny.named_parameters()}
    heads = tiny.head_parameters()
    assert all(heads[name] is tiny.get_parameter(name) for name in heads)
    tiny.reset_head(7)
    after = {name: tuple(each.shape) for name, each in tiny.named_parameters()}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == set(heads) == set(tiny.head_parameters())
    tiny.reset_head(0)
    assert tiny.head_parameters() == {}


def test_the_family_is_that_of_the_config(tiny: models.Backbone) -> None:
    assert tiny.family in FAMILIES
    assert models.family(tiny.family).Config is type(tiny.config)
    assert models.to_dict(tiny.config)["family"] == tiny.family == models.family_of(tiny.config)


def test_deit_has_two_heads_and_its_distillation_token_is_an_embedding() -> None:
    model = models.build(models.family("deit").TINY)
    assert set(model.head_parameters()) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert model.layer_of("dist_token") == model.layer_of("cls_token") == 0


def test_the_stages_of_a_hybrid_are_not_encoder_blocks() -> None:
    model = models.build(models.family("hybrid").TINY)
    inside = [name for name, _ in model.named_parameters() if ".stages." in name]
    assert inside
    assert {model.layer_of(name) for name in inside} == {0}


def test_a_table_shared_by_all_blocks_belongs_to_the_last_layer() -> None:
    """BEiT's own rule: `rel_pos_bias` has the last layer's rate."""
    model = models.build(replace(beit.TINY, relative="shared"))
    assert model.layer_of("rel_pos_bias.relative_position_bias_table") == len(model.blocks) + 1


def published_layer(name: str, num_layers: int) -> int:
    """`get_num_layer_for_vit` of BEiT's optim_factory.py, as MAE's lr_decay.py repeats it; num_layers is depth + 2."""
    if name in ("cls_token", "mask_token", "pos_embed"):
        return 0
    if name.startswith("patch_embed"):
        return 0
    if name.startswith("rel_pos_bias"):
        return num_layers - 1
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return num_layers - 1


@pytest.mark.parametrize("name", ["vit", "beit", "mae"])
def test_layers_match_the_published_rule(name: str) -> None:
    model = models.build(models.family(name).TINY)
    for where, _ in model.named_parameters():
        assert model.layer_of(where) == published_layer(where, len(model.blocks) + 2), where


def test_layers_match_timm_except_for_the_final_norm() -> None:
    """timm puts the final norm with the last block; BEiT, MAE and vitkit put it with the head."""
    timm, group_parameters = oracle("timm"), oracle("timm.models").group_parameters
    theirs = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5)
    groups = group_parameters(theirs, theirs.group_matcher(coarse=False), reverse=True)
    ours = models.build(models.preset("vit-ti/16", depth=3, num_classes=5), device="meta")
    for where, _ in ours.named_parameters():
        expected = 3 if where.startswith("norm.") else ours.layer_of(where)
        assert groups[where] == expected, where
