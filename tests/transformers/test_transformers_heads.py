"""Attention weights, head masks, pruning and selected layers, which transformers supports only in part."""

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


def make(model_class: Any = ViTModel, **settings: Any) -> Any:
    torch.manual_seed(1)
    return model_class(ViTConfig(**COMMON | settings)).eval()


def naive_forward(model: ViTModel, images: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A naive forward pass, head by head, that multiplies the weights by a head mask (layers, heads)."""
    tokens, all_weights = model.embeddings(images), []
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
        all_weights.append(torch.stack(weights, dim=1))
    return model.layernorm(tokens), all_weights


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_head_masks_scale_the_weights_in_both_implementations(implementation: str) -> None:
    model = make()
    model.set_attn_implementation(implementation)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(2)).round(decimals=1)
    mask[1] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    tokens, weights = naive_forward(model, IMAGES, mask)
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
    expected, _ = naive_forward(model, IMAGES, row.expand(3, 4))
    torch.testing.assert_close(model(IMAGES, head_mask=row).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_head_masks_have_gradients() -> None:
    """Michel et al. 2019, "Are Sixteen Heads Really Better than One?", rank heads by the gradient of the mask."""
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
def test_sdpa_returns_its_weights_and_output_attentions_changes_no_other_output() -> None:
    model = make()
    _, weights = naive_forward(model, IMAGES, torch.ones(3, 4))
    plain = model(IMAGES)
    with_weights = model(IMAGES, output_attentions=True)
    torch.testing.assert_close(with_weights.attentions, tuple(weights), atol=1e-6, rtol=1e-5)
    assert torch.equal(plain.last_hidden_state, with_weights.last_hidden_state)
    assert torch.equal(plain.pooler_output, with_weights.pooler_output)


@pytest.mark.parametrize(
    ("selection", "indices"), [(True, {0, 1, 2}), (1, {1}), (0, {0}), ([-1], {2}), ([0, -2], {0, 1}), (False, None)]
)
@torch.no_grad()
def test_selected_layers(selection: Any, indices: set[int] | None) -> None:
    model = make()
    full = model(IMAGES, output_attentions=True, output_hidden_states=True)
    some = model(IMAGES, output_attentions=selection).attentions
    if indices is None:
        assert some is None
        return
    assert [entry is not None for entry in some] == [index in indices for index in range(3)]
    assert all(torch.equal(some[index], full.attentions[index]) for index in indices)
    states = model(IMAGES, output_hidden_states=[-1, 0]).hidden_states
    assert [state is not None for state in states] == [True, False, False, True]
    assert torch.equal(states[3], full.hidden_states[3])
    model.config.output_attentions = selection
    assert torch.equal(model(IMAGES).attentions[max(indices)], some[max(indices)])


def test_invalid_layer_indices_and_mask_shapes_raise() -> None:
    model = make()
    for argument, expected in (
        ("output_attentions", "indices from -3 to 2"),
        ("output_hidden_states", "indices from -4 to 3"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{argument} contains [4]; expected {expected}")):
            model(IMAGES, **{argument: [0, 4]})
    with pytest.raises(
        ValueError, match=re.escape("head_mask has shape (5,); expected (4,), (3, 4) or five dimensions")
    ):
        model(IMAGES, head_mask=torch.ones(5))
    with pytest.raises(ValueError, match=re.escape("attention_mask has shape (17,); expected (b, n) or (b, h, n, n)")):
        model(IMAGES, attention_mask=torch.ones(17))
    with pytest.raises(ValueError, match=re.escape("attention_mask has shape (2, 16); its last dimension must be 17")):
        model(IMAGES, attention_mask=torch.ones(2, 16))


def test_one_selected_layer_costs_one_product_of_queries_and_keys() -> None:
    """At the size of ViT-B/16, the product is far less than a twelfth of the forward pass."""
    with torch.device("meta"):
        model = ViTModel(ViTConfig(), add_pooling_layer=False).eval()
        images = torch.zeros(1, 3, 224, 224)
    counts = []
    for selection in (None, [5], True):
        with FlopCounterMode(display=False) as counter:
            model(images, output_attentions=selection)
        counts.append(counter.get_total_flops())
    product = 2 * 197 * 197 * 768
    assert counts[1] - counts[0] == product
    assert counts[2] - counts[0] == 12 * product
    assert product < counts[0] / 12 / 10


@torch.no_grad()
def test_pruned_heads_match_masked_heads_and_are_saved(tmp_path: Any) -> None:
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
    with pytest.raises(ValueError, match="cannot prune all 4 heads of a layer"):
        again.prune_heads({1: range(4)})
    with pytest.raises(ValueError, match=re.escape("cannot prune heads [4]: the layer has heads 0 to 3")):
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
    mask_of_tokens = torch.ones(2, 17)
    mask_of_tokens[:, 5:] = 0
    assert torch.equal(
        model(IMAGES, labels, None, mask_of_tokens).loss,
        model(IMAGES, labels=labels, attention_mask=mask_of_tokens).loss,
    )
    multi = torch.rand(2, 5)
    model.config.problem_type = "multi_label_classification"
    assert torch.equal(model(IMAGES, multi).loss, model(IMAGES, labels=multi).loss)
    base = model.vit
    assert torch.equal(base(larger, None, True)[0], base(larger, interpolate_pos_encoding=True)[0])
    assert torch.equal(base(IMAGES, None, mask)[0], base(IMAGES, head_mask=mask)[0])
    assert len(base(IMAGES, None, None, True, True)) == 3
    assert isinstance(base(IMAGES, None, None, None, None, None, False), tuple)
    with pytest.raises(TypeError, match="forward takes 7 positional arguments"):
        base(IMAGES, None, None, None, None, None, False, False)


def test_an_ambiguous_second_argument_raises() -> None:
    model = make(ViTForImageClassification, num_labels=4)
    ambiguous = torch.rand(3, 4)
    with pytest.raises(ValueError, match=re.escape("of shape (3, 4), could be labels or head_mask")):
        model(torch.zeros(3, 3, 32, 32), ambiguous)
    assert model(torch.zeros(3, 3, 32, 32), labels=ambiguous).loss > 0
    assert model(torch.zeros(3, 3, 32, 32), head_mask=ambiguous).loss is None


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    plain, checkpointed = make(ViTForImageClassification), make(ViTForImageClassification)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    assert checkpointed.is_gradient_checkpointing
    calls, layer_calls = [], []
    checkpointed.vit.layers[1].attention.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed.vit.layers[1].register_forward_pre_hook(lambda *_: layer_calls.append(1))
    for model in (plain.train(), checkpointed.train()):
        output = model(IMAGES, labels=torch.tensor([0, 1]), output_attentions=[1])
        (output.loss + output.attentions[1].square().sum()).backward()
    assert len(calls) == 2, "the layer ran again in the backward pass"
    assert len(layer_calls) == 1, "hooks of the layer itself ran once"
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    checkpointed.activation_checkpointing_enable(every_n_layers=2)
    calls.clear()
    checkpointed(IMAGES, labels=torch.tensor([0, 1])).loss.backward()
    assert len(calls) == 1
    checkpointed.gradient_checkpointing_disable()
    assert not checkpointed.is_activation_checkpointing
    with pytest.raises(ValueError, match="offload=True is not supported"):
        checkpointed.activation_checkpointing_enable(offload=True)


def test_unknown_attention_implementations_raise() -> None:
    model = make()
    with pytest.raises(
        ValueError, match=r'"flash_attention_2"` is not supported; expected one of eager, sdpa; sdpa includes the flash'
    ):
        model.set_attn_implementation("flash_attention_2")
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


def test_stochastic_depth_grows_over_the_layers() -> None:
    model = make(drop_path_rate=0.4)
    paths = [(layer.attention.output.drop_path, layer.output.drop_path) for layer in model.layers]
    assert [[path and path.rate for path in layer] for layer in paths] == [[None, None], [0.2, 0.2], [0.4, 0.4]]
    assert torch.equal(model(IMAGES)[0], make()(IMAGES)[0])
    torch.manual_seed(0)
    first = model.train()(IMAGES)[0]
    assert not torch.equal(first, model(IMAGES)[0])


def test_exported_model_gives_the_same_outputs() -> None:
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
def test_compiled_model_gives_the_same_outputs() -> None:
    """Runs in a process without shape checks, which torch.compile cannot trace."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
