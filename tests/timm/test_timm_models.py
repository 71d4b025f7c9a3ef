"""The models beside timm's with equal weights: outputs, intermediates, heads, sizes, channels and training."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import oracle
from timm_pairs import KINDS, assert_close, fill, images, pair, sizes
from torch import Tensor, nn

import vitkit.timm as ours
from vitkit.timm.layers import PatchEmbed, resample_patch_embed
from vitkit.timm.models.vision_transformer import Attention, Block, VisionTransformer

theirs = oracle("timm")
BIT = "resnetv2_50x1_bit"
FORMATS: list[dict[str, Any]] = [
    {"indices": None},
    {"indices": 1, "norm": True, "intermediates_only": True},
    {"indices": [1, 0], "stop_early": True, "output_fmt": "NLC"},
    {"indices": [0], "stop_early": True, "return_prefix_tokens": True},
    {"indices": (-1,), "return_prefix_tokens": True, "output_fmt": "NLC", "intermediates_only": True},
]


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_outputs(name: str) -> None:
    model, own = pair(name)
    batch = images(model)
    features = model.forward_features(batch)
    assert_close(own.forward_features(batch), features)
    assert_close(own(batch), model(batch))
    assert_close(own.forward_head(features), model.forward_head(features))
    assert_close(own.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))
    for options in FORMATS:
        assert_close(own.forward_intermediates(batch, **options), model.forward_intermediates(batch, **options))
    if hasattr(model, "get_intermediate_layers"):
        for reshape in (False, True):
            options = {"reshape": reshape, "return_prefix_tokens": True, "norm": True}
            expected = model.get_intermediate_layers(batch, 2, **options)
            assert_close(own.get_intermediate_layers(batch, 2, **options), expected)
        dicts = {"output_dict": True, "return_prefix_tokens": True, "norm": True}
        assert_close(own.forward_intermediates(batch, **dicts), model.forward_intermediates(batch, **dicts))
        expected = model.forward_intermediates(batch, **dicts, intermediates_only=True)
        assert_close(own.forward_intermediates(batch, **dicts, intermediates_only=True), expected)


@pytest.mark.slow
@torch.no_grad()
def test_bit() -> None:
    model, own = pair(BIT)
    batch = images(model)
    assert_close(own(batch), model(batch))
    features = model.forward_features(batch)
    assert_close(own.forward_features(batch), features)
    assert_close(own.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))
    for options in ({}, {"norm": True}, {"indices": (0, 2), "stop_early": True}, {"indices": 2, "norm": True}):
        assert_close(own.forward_intermediates(batch, **options), model.forward_intermediates(batch, **options))
    for each in (model, own):
        assert each.get_classifier() is each.head.fc
        each.reset_classifier(7)
    own.head.load_state_dict(model.head.state_dict())
    assert_close(own(batch), model(batch))
    wrapped, own = (each.create_model(BIT, features_only=True).eval().double() for each in (theirs, ours))
    # timm's wrapper of a ResNet has flat names: stages_0 for stages.0.
    renamed = {re.sub(r"^(stem|stages)_", r"\1.", name): value for name, value in wrapped.state_dict().items()}
    own.model.load_state_dict(renamed)
    assert own.feature_info.channels() == wrapped.feature_info.channels()
    assert own.feature_info.reduction() == wrapped.feature_info.reduction()
    assert_close(own(batch), wrapped(batch))


@pytest.mark.parametrize("name", [*KINDS[:2], KINDS[3], KINDS[8], "beit_base_patch16_224", "vit_small_patch16_dinov3"])
@torch.no_grad()
def test_resetting_the_classifier(name: str) -> None:
    model, own = pair(name)
    batch = images(model)
    pools = [None] if "distilled" in name else [None, "avg", "token", ""]
    for classes, pool in zip((3, 4, 5, 0), pools, strict=False):
        if pool == "token" and model.cls_token is None:
            continue
        model.reset_classifier(classes, pool)
        own.reset_classifier(classes, pool)
        own.load_state_dict(model.state_dict())
        assert own.num_classes == classes
        assert own.global_pool == model.global_pool
        assert_close(own(batch), model(batch))
        assert repr(own.get_classifier()) == repr(model.get_classifier())
    with pytest.raises(AssertionError):
        own.reset_classifier(3, "mean")


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("name", [KINDS[0], KINDS[1], KINDS[3], KINDS[8], "beit_base_patch16_224", KINDS[10]])
@torch.no_grad()
def test_setting_the_input_size(name: str) -> None:
    model, own = pair(name)
    for size, patch in (((48, 32), None), ((40, 60), (10, 12))):
        if "dinov3" in name and patch:
            continue
        model.set_input_size(size, patch)
        own.set_input_size(size, patch)
        assert own.patch_embed.img_size == tuple(size)
        assert own.patch_embed.grid_size == tuple(model.patch_embed.grid_size)
        assert own.patch_embed.num_patches == model.patch_embed.num_patches
        assert_close(own.state_dict(), model.state_dict())
        batch = torch.randn(1, 3, *size)
        assert_close(own(batch), model(batch))


def test_resampling_a_patch_projection() -> None:
    weight = torch.randn(6, 3, 8, 6)
    for size in ((16, 12), (5, 9), (8, 6)):
        for how in ({}, {"interpolation": "bilinear", "antialias": False}):
            expected = theirs.layers.resample_patch_embed(weight, list(size), **how)
            assert (resample_patch_embed(weight, size, **how) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", [KINDS[0], KINDS[3], KINDS[8], KINDS[10], KINDS[12]])
@torch.no_grad()
def test_dynamic_image_sizes(name: str) -> None:
    model, own = pair(name, dynamic_img_size=True)
    for size in ((32, 32), (48, 64)) if "_r_" not in name else ((64, 64), (96, 128)):
        batch = torch.randn(2, 3, *size)
        assert_close(own(batch), model(batch))
        assert_close(own.forward_intermediates(batch), model.forward_intermediates(batch))
    if "_r_" not in name:
        with pytest.raises(AssertionError, match=r"Input height \(36\) should be divisible by patch size \(8\)"):
            own(torch.randn(1, 3, 36, 32))
        padded, own = pair(name, dynamic_img_size=True, dynamic_img_pad=True)
        batch = torch.randn(1, 3, 36, 45)
        assert_close(own(batch), padded(batch))
        assert_close(own.forward_intermediates(batch), padded.forward_intermediates(batch))


def test_images_of_a_wrong_size_are_rejected() -> None:
    own = ours.create_model(KINDS[0], **sizes(KINDS[0]))
    with pytest.raises(AssertionError, match=r"Input height \(40\) doesn't match model \(32\)"):
        own(torch.randn(1, 3, 40, 32))
    with pytest.raises(AssertionError, match=r"Input width \(24\) doesn't match model \(32\)"):
        own(torch.randn(1, 3, 32, 24))


RATES = {"drop_rate": 0.1, "pos_drop_rate": 0.2, "proj_drop_rate": 0.3, "attn_drop_rate": 0.4, "drop_path_rate": 0.5}


@pytest.mark.parametrize("name", [KINDS[0], KINDS[8], "beit_base_patch16_224", KINDS[10]])
def test_rates_of_dropout_and_stochastic_depth(name: str) -> None:
    model, own = (library.create_model(name, **sizes(name) | RATES | {"depth": 4}) for library in (theirs, ours))

    def rates(model: nn.Module) -> dict[str, float]:
        named = ((name, getattr(each, "drop_prob", getattr(each, "p", None))) for name, each in model.named_modules())
        return {name: rate for name, rate in named if rate is not None}

    assert rates(own) == pytest.approx(rates(model))
    assert [block.drop_path1.drop_prob for block in own.blocks[1:]] == pytest.approx([1 / 6, 1 / 3, 0.5])
    own.blocks[1].drop_path1.drop_prob = 0.9
    assert own.blocks[1].drop_path1.rate == 0.9


@pytest.mark.parametrize("name", [KINDS[0], KINDS[3], KINDS[8], "beit_base_patch16_224", KINDS[11]])
def test_training_steps_have_equal_losses_and_gradients(name: str) -> None:
    model, own = pair(name)
    batch, labels = images(model, 4), torch.arange(4)
    losses: list[list[float]] = []
    for each in (model, own):
        each.train()
        optimizer = torch.optim.AdamW(each.parameters(), lr=1e-3)
        losses.append([])
        for _ in range(4):
            loss = F.cross_entropy(each(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_distilled_training() -> None:
    model, own = pair(KINDS[8])
    batch = images(model)
    for each in (model, own):
        each.set_distilled_training()
        each.train()
    assert_close(own(batch), model(batch))
    assert_close(own.eval()(batch), model.eval()(batch))


@pytest.mark.parametrize("name", [KINDS[0], KINDS[3], "beit_base_patch16_224", KINDS[10]])
def test_grouping_of_parameters(name: str) -> None:
    model, own = pair(name)
    assert own.no_weight_decay() == model.no_weight_decay()
    for coarse in (False, True):
        assert own.group_matcher(coarse=coarse) == model.group_matcher(coarse=coarse)
    optim = oracle("timm.optim")

    def groups(each: Any) -> list[tuple[float, float, int]]:
        made = optim.create_optimizer_v2(each, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
        return [
            (group["lr"] * group["lr_scale"], group["weight_decay"], len(group["params"]))
            for group in made.param_groups
        ]

    assert groups(own) == groups(model)


@pytest.mark.parametrize(
    "name", [KINDS[0], "beit_base_patch16_224", KINDS[10], pytest.param("resnetv2_50x1_bit", marks=pytest.mark.slow)]
)
def test_activation_checkpointing(name: str) -> None:
    _, own = pair(name)
    batch = images(own)
    plain = copy.deepcopy(own)
    own.set_grad_checkpointing()
    for each in (own, plain):
        each.train()
        each(batch).square().mean().backward()
    for parameter, other in zip(own.parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad) if other.grad is not None else parameter.grad is None


@pytest.mark.parametrize("name", [KINDS[0], KINDS[3], "beit_base_patch16_224", KINDS[10]])
@torch.no_grad()
def test_features_only(name: str) -> None:
    batch = torch.randn(2, 3, 32, 32)
    for options in ({}, {"out_indices": (0, 2)}, {"out_indices": [-1]}, {"out_indices": 2}):
        arguments = sizes(name) | {"depth": 4, "features_only": True} | options
        model = fill(theirs.create_model(name, **arguments))
        own = ours.create_model(name, **arguments).eval()
        assert list(own.state_dict()) == list(model.state_dict())
        own.load_state_dict(model.state_dict())
        for method in ("channels", "reduction", "module_name", "get_dicts"):
            assert getattr(own.feature_info, method)() == getattr(model.feature_info, method)()
        assert own.out_indices == model.out_indices
        assert own.default_cfg == model.default_cfg
        assert_close(own(batch), model(batch))
    with pytest.raises(AssertionError, match=r"feature index 9 is out of range \(0 to 3\)"):
        ours.create_model(name, **sizes(name) | {"depth": 4, "features_only": True, "out_indices": [9]})


@torch.no_grad()
def test_masks() -> None:
    for name in (KINDS[0], KINDS[10]):
        model, own = pair(name)
        batch = images(model)
        count = own.forward_features(batch).shape[1]
        keep = torch.rand(count, count, generator=torch.Generator().manual_seed(3)) > 0.3
        keep |= torch.eye(count, dtype=torch.bool)
        for mask in (keep, torch.randn(count, count)):
            assert_close(own(batch, attn_mask=mask), model(batch, attn_mask=mask))
        assert_close(own(batch, is_causal=True), model(batch, is_causal=True))


@torch.no_grad()
def test_the_steps_of_the_forward_pass_can_be_called() -> None:
    for name in (KINDS[0], KINDS[1], KINDS[3]):
        _, own = pair(name)
        batch = images(own)
        x = own._pos_embed(own.patch_embed(batch))
        x = own.norm(own.blocks(own.norm_pre(own.patch_drop(x))))
        assert torch.equal(own.forward_head(x), own(batch))
    model, own = pair("beit_base_patch16_224")
    x = torch.randn(2, 17, 32)
    assert_close(own.blocks[0](x), model.blocks[0](x))


@torch.no_grad()
def test_attention_maps_by_hooks() -> None:
    """Without fused attention the weights pass through `attn_drop`, where user code reads them."""
    model, own = pair(KINDS[0])
    batch, maps = images(model), []
    for each in (model, own):
        seen: list[Tensor] = []
        for block in each.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out))
        each(batch)
        maps.append(seen)
    assert_close(maps[1], maps[0])


def test_replacing_freezing_and_subclassing() -> None:
    _, own = pair(KINDS[0])
    batch = images(own)
    before = own(batch)
    for parameter in own.blocks[:1].parameters():
        parameter.requires_grad = False
    own(batch).sum().backward()
    assert own.blocks[0].attn.qkv.weight.grad is None
    assert own.blocks[1].attn.qkv.weight.grad is not None
    own.blocks[1].attn.qkv = nn.Linear(32, 96)
    assert not torch.equal(own(batch), before)
    own.head = nn.Identity()
    assert own(batch).shape == (2, 32)

    class Pooled(VisionTransformer):
        def __init__(self, **arguments: Any):
            super().__init__(**arguments)
            self.extra = nn.Linear(self.embed_dim, 3)

        def forward_features(self, x: Tensor) -> Tensor:
            x = self.patch_embed(x)
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
            for block in self.blocks:
                x = block(x)
            return self.extra(x[:, 1:].mean(dim=1))

        def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
            return x

    model = Pooled(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, qkv_bias=True)
    assert model(batch).shape == (2, 3)
    assert copy.deepcopy(model)(batch).shape == (2, 3)


def test_layers_with_timm_arguments() -> None:
    block, own = theirs.models.vision_transformer.Block(32, 2, qkv_bias=True), Block(32, 2, qkv_bias=True)
    own.load_state_dict(block.state_dict())
    x = torch.randn(2, 5, 32)
    assert_close(own(x), block(x))
    attention, own = theirs.layers.Attention(32, 4), Attention(32, 4)
    own.load_state_dict(attention.state_dict())
    assert_close(own(x), attention(x))
    embed, own = (each(img_size=24, patch_size=8, embed_dim=16) for each in (theirs.layers.PatchEmbed, PatchEmbed))
    own.load_state_dict(embed.state_dict())
    assert_close(own(torch.ones(1, 3, 24, 24)), embed(torch.ones(1, 3, 24, 24)))
    assert own.num_patches == embed.num_patches == 9


@torch.no_grad()
def test_initial_weights_have_timm_distributions() -> None:
    for name in (KINDS[0], KINDS[1], "beit_base_patch16_224", KINDS[10], KINDS[12]):
        arguments = sizes(name) | {"embed_dim": 64, "num_classes": 300}
        torch.manual_seed(0)
        model, own = theirs.create_model(name, **arguments), ours.create_model(name, **arguments)
        for (parameter_name, expected), found in zip(model.named_parameters(), own.parameters(), strict=True):
            assert float(found.std().nan_to_num()) == pytest.approx(
                float(expected.std().nan_to_num()), rel=0.35, abs=2e-6
            ), parameter_name
            spread = 0.03 + 3 * float(expected.std().nan_to_num())
            assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=spread)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_initialization_sets_every_value(name: str) -> None:
    modes = ["", "skip", "jax"] if name.startswith("vit") and "dinov3" not in name and "_r_" not in name else [""]
    for mode in modes:
        own = ours.create_model(name, **sizes(name), **({"weight_init": mode} if mode else {}))
        for parameter in own.parameters():
            parameter.fill_(torch.nan)
        own.init_weights()
        assert all(parameter.isfinite().all() for parameter in own.parameters())


def test_the_config_of_vitkit_follows_the_pooling() -> None:
    """vitkit's own tools read the config, so that it has to tell what the model computes."""
    for name in (KINDS[0], KINDS[3]):
        own = ours.create_model(name, **sizes(name)).eval()
        batch = images(own)
        for pool in ("avg", "token", ""):
            if pool == "token" and own.cls_token is None:
                continue
            own.reset_classifier(3, pool)
            assert own.config.pool == {"avg": "gap", "token": "token", "": "none"}[pool]
            assert own.config.num_classes == 3
            features = own.features(batch, blocks=(0,), as_maps=True)
            assert torch.equal(own.logits(features), own(batch))
            assert torch.equal(features.taps[0], own.forward_intermediates(batch, [0], intermediates_only=True)[0])


def test_devices_dtypes_and_export() -> None:
    own = ours.create_model(KINDS[0], **sizes(KINDS[0]), dtype=torch.bfloat16, exportable=True, scriptable=False)
    assert own.head.weight.dtype == torch.bfloat16
    assert ours.create_model(KINDS[0], **sizes(KINDS[0]), device="meta").head.weight.is_meta
    own = ours.create_model(KINDS[0], **sizes(KINDS[0])).eval()
    batch = torch.randn(1, 3, 32, 32)
    assert torch.equal(pickle.loads(pickle.dumps(own))(batch), own(batch))
    program = torch.export.export(own, (torch.randn(1, 3, 32, 32),))
    assert_close(program.module()(batch), own(batch))
