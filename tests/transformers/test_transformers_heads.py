"""Attention weights, head masks, pruning, chosen layers: what transformers has only in eager, or no more."""

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vitkit import ViTConfig, ViTForImageClassification, ViTModel

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
    "initializer_range": 0.2,
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(kind: Any = ViTModel, **settings: Any) -> Any:
    torch.manual_seed(1)
    return kind(ViTConfig(**COMMON | settings)).eval()


def by_hand(model: ViTModel, images: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A forward pass written out, head by head, with version 4's mask on the weights (layers, heads)."""
    tokens, seen = model.embeddings(images), []
    for layer, row in zip(model.layers, mask, strict=True):
        attention: Any = layer.attention
        normed = layer.layernorm_before(tokens)
        heads, weights = [], []
        for head in range(row.shape[0]):
            rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            q, k, v = (
                normed @ proj.weight[rows].T + proj.bias[rows]
                for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            weight = (q @ k.transpose(1, 2) / attention.head_dim**0.5).softmax(-1) * row[head]
            heads.append(weight @ v)
            weights.append(weight)
        tokens = tokens + attention.o_proj(torch.cat(heads, dim=-1))
        tokens = tokens + layer.mlp(layer.layernorm_after(tokens))
        seen.append(torch.stack(weights, dim=1))
    return model.layernorm(tokens), seen


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_head_masks_scale_the_weights_under_both_kernels(implementation: str) -> None:
    model = make()
    model.set_attn_implementation(implementation)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    mask[1] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    tokens, weights = by_hand(model, IMAGES, mask)
    got = model(IMAGES, head_mask=mask, output_attentions=True)
    torch.testing.assert_close(got.last_hidden_state, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.attentions, tuple(weights), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(got.last_hidden_state, model(IMAGES).last_hidden_state, atol=1e-3)
    for same in (
        mask[:, None, :, None, None],
        mask[:, None, :, None, None].expand(3, 2, 4, 17, 17),
        list(mask.view(3, 4, 1, 1)),
    ):
        torch.testing.assert_close(model(IMAGES, head_mask=same).last_hidden_state, tokens, atol=1e-5, rtol=1e-5)
    row = torch.tensor([1.0, 0.0, 1.0, 0.5])
    expected, _ = by_hand(model, IMAGES, row.expand(3, 4))
    torch.testing.assert_close(model(IMAGES, head_mask=row).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_head_masks_have_gradients_so_that_heads_can_be_ranked() -> None:
    """Michel et al. 2019, "Are Sixteen Heads Really Better than One?", ranks heads by the loss's gradient in a mask."""
    model = make(ViTForImageClassification)
    mask = torch.ones(3, 4, requires_grad=True)
    model(IMAGES, head_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
    fused = mask.grad
    model.set_attn_implementation("eager")
    mask = torch.ones(3, 4, requires_grad=True)
    model(IMAGES, head_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
    assert fused is not None
    assert (fused != 0).all()
    torch.testing.assert_close(fused, mask.grad, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_weights_under_the_fused_kernel_are_those_it_uses_and_asking_changes_nothing() -> None:
    model = make()
    _, weights = by_hand(model, IMAGES, torch.ones(3, 4))
    plain = model(IMAGES)
    looked = model(IMAGES, output_attentions=True)
    torch.testing.assert_close(looked.attentions, tuple(weights), atol=1e-6, rtol=1e-5)
    assert torch.equal(plain.last_hidden_state, looked.last_hidden_state)
    assert torch.equal(plain.pooler_output, looked.pooler_output)


@pytest.mark.parametrize(
    ("which", "places"), [(True, {0, 1, 2}), (1, {1}), (0, {0}), ([-1], {2}), ([0, -2], {0, 1}), (False, None)]
)
@torch.no_grad()
def test_some_layers_only(which: Any, places: set[int] | None) -> None:
    model = make()
    whole = model(IMAGES, output_attentions=True, output_hidden_states=True)
    some = model(IMAGES, output_attentions=which).attentions
    if places is None:
        assert some is None
        return
    assert [entry is not None for entry in some] == [place in places for place in range(3)]
    assert all(torch.equal(some[place], whole.attentions[place]) for place in places)
    states = model(IMAGES, output_hidden_states=[-1, 0]).hidden_states
    assert [state is not None for state in states] == [True, False, False, True]
    assert torch.equal(states[3], whole.hidden_states[3])
    model.config.output_attentions = which
    assert torch.equal(model(IMAGES).attentions[max(places)], some[max(places)])


def test_layers_that_are_not_there_and_masks_of_other_shapes_are_refused() -> None:
    model = make()
    for argument, there in (
        ("output_attentions", "there are 3: -3 to 2"),
        ("output_hidden_states", "there are 4: -4 to 3"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{argument} asks for [4], but {there}")):
            model(IMAGES, **{argument: [0, 4]})
    with pytest.raises(ValueError, match=re.escape("head_mask has the shape (5,); it takes (4,), (3, 4) or five axes")):
        model(IMAGES, head_mask=torch.ones(5))
    with pytest.raises(
        ValueError, match=re.escape("attention_mask has the shape (17,); it takes (b, n) or (b, h, n, n)")
    ):
        model(IMAGES, attention_mask=torch.ones(17))


def test_one_chosen_layer_costs_its_weights_and_no_more() -> None:
    """At the size of ViT-B/16: one product of queries and keys, far below a twelfth of the pass."""
    with torch.device("meta"):
        model = ViTModel(ViTConfig(), add_pooling_layer=False).eval()
        images = torch.zeros(1, 3, 224, 224)
    counts = []
    for asked in (None, [5], True):
        with FlopCounterMode(display=False) as counter:
            model(images, output_attentions=asked)
        counts.append(counter.get_total_flops())
    product = 2 * 197 * 197 * 768
    assert counts[1] - counts[0] == product
    assert counts[2] - counts[0] == 12 * product
    assert product < counts[0] / 12 / 10


@torch.no_grad()
def test_pruned_heads_are_masked_heads_and_stay_pruned(tmp_path: Any) -> None:
    model = make(ViTForImageClassification)
    before = model.num_parameters()
    mask = torch.ones(3, 4)
    mask[0, 1] = mask[2, 0] = mask[2, 3] = 0
    masked = model(IMAGES, head_mask=mask)
    model.prune_heads({0: [1], 2: [0, 3]})
    pruned = model(IMAGES, output_attentions=True)
    torch.testing.assert_close(pruned.logits, masked.logits, atol=1e-5, rtol=1e-5)
    assert [weights.shape[1] for weights in pruned.attentions] == [3, 4, 2]
    assert before - model.num_parameters() == 3 * (3 * (32 + 1) * 8 + 32 * 8)
    model.save_pretrained(tmp_path)
    again = ViTForImageClassification.from_pretrained(tmp_path)
    assert again.config.pruned_heads == {"0": [1], "2": [0, 3]}
    assert torch.equal(again(IMAGES).logits, pruned.logits)
    again.prune_heads({0: [1, 2]})
    assert again.config.pruned_heads == {0: [1, 2], 2: [0, 3]}
    assert again.vit.layers[0].attention.num_attention_heads == 2
    torch.testing.assert_close(
        again.vit.layers[0].attention.q_proj.weight,
        torch.cat([model.vit.layers[0].attention.q_proj.weight[i : i + 8] for i in (0, 16)]),
    )
    with pytest.raises(ValueError, match="at least one of the 4 heads of a layer has to stay"):
        again.prune_heads({1: range(4)})
    with pytest.raises(ValueError, match=re.escape("there is no head [4]; there are 4, from 0")):
        again.prune_heads({1: [4]})


def test_positional_arguments_of_both_versions() -> None:
    model = make(ViTForImageClassification)
    labels, mask = torch.tensor([0, 1]), torch.tensor([1.0, 0.0, 1.0, 0.5])
    named = model(IMAGES, labels=labels)
    assert torch.equal(model(IMAGES, None, labels).loss, named.loss)  # version 4
    assert torch.equal(model(IMAGES, labels).loss, named.loss)  # version 5
    assert torch.equal(model(IMAGES, mask).logits, model(IMAGES, head_mask=mask).logits)
    assert torch.equal(model(IMAGES, mask, labels).loss, model(IMAGES, head_mask=mask, labels=labels).loss)
    larger = torch.randn(2, 3, 48, 40)
    assert torch.equal(
        model(larger, labels, True).loss, model(larger, labels=labels, interpolate_pos_encoding=True).loss
    )
    keep = torch.ones(2, 17)
    keep[:, 5:] = 0
    assert torch.equal(model(IMAGES, labels, None, keep).loss, model(IMAGES, labels=labels, attention_mask=keep).loss)
    multi = torch.rand(2, 5)
    model.config.problem_type = "multi_label_classification"
    assert torch.equal(model(IMAGES, multi).loss, model(IMAGES, labels=multi).loss)
    base = model.vit
    assert torch.equal(base(larger, None, True)[0], base(larger, interpolate_pos_encoding=True)[0])
    assert torch.equal(base(IMAGES, None, mask)[0], base(IMAGES, head_mask=mask)[0])
    assert len(base(IMAGES, None, None, True, True)) == 3
    assert isinstance(base(IMAGES, None, None, None, None, None, False), tuple)
    with pytest.raises(TypeError, match="forward takes 7 positional arguments"):
        base(IMAGES, None, None, None, None, None, None, None)


def test_a_second_argument_that_may_be_either_is_not_guessed() -> None:
    model = make(ViTForImageClassification, num_labels=4)
    either = torch.rand(3, 4)
    with pytest.raises(ValueError, match=re.escape("of shape (3, 4) may be labels= or head_mask=: say which by name")):
        model(torch.zeros(3, 3, 32, 32), either)
    assert model(torch.zeros(3, 3, 32, 32), labels=either).loss > 0
    assert model(torch.zeros(3, 3, 32, 32), head_mask=either).loss is None


def test_checkpointed_layers_give_the_same_gradients() -> None:
    plain, saving = make(ViTForImageClassification), make(ViTForImageClassification)
    saving.gradient_checkpointing_enable({"use_reentrant": False})
    assert saving.is_gradient_checkpointing
    calls = []
    saving.vit.layers[1].register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (plain.train(), saving.train()):
        output = model(IMAGES, labels=torch.tensor([0, 1]), output_attentions=[1])
        (output.loss + output.attentions[1].square().sum()).backward()
    assert len(calls) == 2, "the layer ran again in the backward pass"
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    saving.activation_checkpointing_enable(every_n_layers=2)
    calls.clear()
    saving(IMAGES, labels=torch.tensor([0, 1])).loss.backward()
    assert len(calls) == 1
    saving.gradient_checkpointing_disable()
    assert not saving.is_activation_checkpointing
    with pytest.raises(ValueError, match="offload=False"):
        saving.activation_checkpointing_enable(offload=True)


def test_kernels_that_are_not_there_are_named() -> None:
    model = make()
    with pytest.raises(
        ValueError, match=r"'flash_attention_2'; there is eager, sdpa; sdpa runs the flash kernel by itself"
    ):
        model.set_attn_implementation("flash_attention_2")
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


def test_stochastic_depth_grows_over_the_layers() -> None:
    model = make(drop_path_rate=0.4)
    assert [layer.drop_path.rate for layer in model.layers] == [0.0, 0.2, 0.4]
    assert torch.equal(model(IMAGES)[0], make()(IMAGES)[0])
    torch.manual_seed(0)
    first = model.train()(IMAGES)[0]
    assert not torch.equal(first, model(IMAGES)[0])


def test_exported_models_agree() -> None:
    model = make(ViTForImageClassification)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (), {"pixel_values": IMAGES}, dynamic_shapes={"pixel_values": {0: batch}})
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        output = exported.module()(pixel_values=images)
        torch.testing.assert_close(output.logits, model(images).logits)


COMPILED = """
import torch
from vitkit import ViTConfig, ViTForImageClassification
torch.manual_seed(0)
model = ViTForImageClassification(ViTConfig(32, 2, 4, 64, image_size=32, patch_size=8, num_labels=5)).eval()
compiled = torch.compile(model, fullgraph=True, backend="eager")
images, labels, mask = torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), torch.rand(4)
with torch.no_grad():
    got = compiled(images, mask, labels, output_attentions=[1])
    expected = model(images, head_mask=mask, labels=labels, output_attentions=[1])
torch.testing.assert_close(got.loss, expected.loss)
torch.testing.assert_close(got.attentions[1], expected.attentions[1])
"""


@pytest.mark.slow
def test_compiled_models_agree() -> None:
    """In a process without shape checks, which the compiler cannot see through."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
