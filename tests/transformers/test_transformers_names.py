"""The v4 and v5 names of parameters and modules, for state dicts, hooks and LoRA."""

import copy
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from oracles import oracle
from torch import nn

from vitkit import ViTConfig, ViTForImageClassification, ViTModel
from vitkit.transformers import ViTPreTrainedModel
from vitkit.transformers.names import VIT

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
V4_TO_V5 = {
    "vit.encoder.layer.1.attention.attention.query": "vit.layers.1.attention.q_proj",
    "vit.encoder.layer.1.attention.attention.key": "vit.layers.1.attention.k_proj",
    "vit.encoder.layer.1.attention.attention.value": "vit.layers.1.attention.v_proj",
    "vit.encoder.layer.1.attention.output.dense": "vit.layers.1.attention.o_proj",
    "vit.encoder.layer.1.intermediate.dense": "vit.layers.1.mlp.fc1",
    "vit.encoder.layer.1.output.dense": "vit.layers.1.mlp.fc2",
    "vit.encoder.layer.1": "vit.layers.1",
}


@pytest.fixture
def model() -> ViTForImageClassification:
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(32, 2, 4, 64, image_size=16, patch_size=8, num_labels=3)).eval()


def test_parameters_have_the_names_and_order_of_version_5(hf: ModuleType, model: ViTForImageClassification) -> None:
    config = hf.ViTConfig(**{name: value for name, value in model.config.to_dict().items() if name != "model_type"})
    reference = hf.ViTForImageClassification(config)
    assert list(dict(model.named_parameters())) == list(model.state_dict())
    assert "vit.encoder.layer.0.attention.attention.query.weight" in model.state_dict()
    model.name_format = "v5"
    assert list(dict(model.named_parameters())) == list(dict(reference.named_parameters())) == list(model.state_dict())
    assert [p.shape for p in model.parameters()] == [p.shape for p in reference.parameters()]
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(reference.eval()(IMAGES).logits, model(IMAGES).logits, atol=1e-5, rtol=1e-5)
    prefixed = dict(nn.ModuleDict({"inner": model}).named_parameters())
    assert list(prefixed) == [f"inner.{name}" for name in model.state_dict()]
    assert model.num_parameters() == reference.num_parameters()


def test_names_are_converted_in_both_directions(model: ViTForImageClassification) -> None:
    base, to_v4, to_v5 = list(model.vit.state_dict()), VIT.to_v4, VIT.to_v5
    assert [to_v4(to_v5(name)) for name in base] == base
    assert [to_v4(name) for name in base] == base
    assert (to_v5("encoder.layer"), to_v4("layers"), to_v5("encoder")) == ("layers", "encoder.layer", "encoder")
    assert to_v4("layers.11.attention.q_proj.lora_A.default.weight") == (
        "encoder.layer.11.attention.attention.query.lora_A.default.weight"
    )
    assert to_v4("layers.0.mlp.fc22.weight") == "encoder.layer.0.mlp.fc22.weight"
    assert not {to_v5(name) for name in base if "layer." in name} & set(base)


def test_state_dicts_of_both_formats_load_and_are_written(model: ViTForImageClassification) -> None:
    v4 = model.state_dict()
    model.name_format = "v5"
    v5 = model.state_dict()
    assert "vit.encoder.layer.0.attention.attention.query.weight" in v4
    assert "vit.encoder.layer.1.output.dense.bias" in v4
    assert len(v4) == len(v5)
    assert not [name for name in v4 if ".layers." in name or "_proj" in name]
    assert not [name for name in v5 if ".encoder." in name or "query" in name]
    for state_dict in (v4, v5):
        other = ViTForImageClassification(model.config)
        assert other.load_state_dict(state_dict).missing_keys == []
        assert torch.equal(other.eval()(IMAGES).logits, model(IMAGES).logits)
    nested = nn.ModuleDict({"inner": copy.deepcopy(model)})
    nested.load_state_dict({f"inner.{name}": tensor for name, tensor in v4.items()})
    assert list(nested.state_dict())[4] == "inner.vit.layers.0.attention.q_proj.weight"
    incomplete = {name: tensor for name, tensor in v4.items() if "layer.1.output.dense.bias" not in name}
    for name_format, missing in (("v4", "vit.encoder.layer.1.output.dense.bias"), ("v5", "vit.layers.1.mlp.fc2.bias")):
        other = ViTForImageClassification(model.config)
        other.name_format = name_format
        with pytest.raises(RuntimeError, match=re.escape(f'Missing key(s) in state_dict: "{missing}"')):
            other.load_state_dict(incomplete)
    both = v4 | {"vit.layers.0.mlp.fc1.bias": torch.zeros(64)}
    with pytest.raises(
        ValueError,
        match=re.escape(
            "the state dict contains vit.encoder.layer.0.intermediate.dense.bias under both its transformers 4 and "
            "transformers 5 names"
        ),
    ):
        ViTForImageClassification(model.config).load_state_dict(both)
    with pytest.raises(ValueError, match="unknown name_format 'v3'; expected one of v4, v5"):
        model.name_format = "v3"


def test_modules_are_accessible_by_both_names(model: ViTForImageClassification) -> None:
    for v4, v5 in V4_TO_V5.items():
        assert model.get_submodule(v4) is model.get_submodule(v5)
    assert model.vit.encoder.layer is model.vit.layers
    assert model.vit.encoder.layer[1].attention.attention.query is model.vit.layers[1].attention.q_proj
    for name_format, names in (("v4", V4_TO_V5), ("v5", V4_TO_V5.values())):
        model.name_format = name_format
        listed = dict(model.named_modules())
        assert set(names) <= set(listed)
        assert len(listed) == len(set(listed.values())) == len(list(model.modules()))
        for name, module in listed.items():
            assert model.get_submodule(name) is module
        for name, parameter in model.named_parameters():
            assert model.get_parameter(name) is parameter


class OwnBackbone(ViTPreTrainedModel):
    """A user's model whose backbone has another name."""

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.backbone = ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(config.hidden_size, 2)
        self.post_init()


def test_models_with_another_name_of_the_backbone(model: ViTForImageClassification, tmp_path: Path) -> None:
    own = OwnBackbone(model.config)
    assert (own.name_format, own.head.bias.abs().max().item()) == ("v4", 0.0)
    own.name_format = "v5"
    assert "backbone.layers.1.mlp.fc1.weight" in own.state_dict()
    assert own.backbone.name_format == "v5"
    again = OwnBackbone(model.config)
    again.load_state_dict(own.state_dict())
    assert torch.equal(again.eval().backbone(IMAGES)[0], own.eval().backbone(IMAGES)[0])
    own.save_pretrained(tmp_path)
    loaded, report = OwnBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(loaded.backbone(IMAGES)[0], own.backbone(IMAGES)[0])


def test_hooks_of_leaf_modules_run_once(model: ViTForImageClassification) -> None:
    for name_format in ("v4", "v5"):
        calls: list[str] = []
        model.name_format = name_format
        leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        handles = [
            module.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
            for name, module in leaves
        ]
        model(IMAGES)
        assert len(leaves) == 26
        assert sorted(calls) == sorted(name for name, _ in leaves)
        for handle in handles:
            handle.remove()


def test_copies_and_parameter_counts(model: ViTForImageClassification) -> None:
    duplicate = copy.deepcopy(model)
    assert torch.equal(duplicate(IMAGES).logits, model(IMAGES).logits)
    assert duplicate.vit.layers[0] is not model.vit.layers[0]
    assert model.num_parameters(only_trainable=True) == model.num_parameters()
    model.vit.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == 3 * 33
    assert model.get_memory_footprint() == 4 * model.num_parameters()
    assert model.get_input_embeddings() is model.vit.embeddings.patch_embeddings
    assert model.base_model is model.vit
    assert ViTModel(model.config).base_model.num_parameters() == model.vit.num_parameters() + 32 * 33
    assert model.dtype is torch.float32
    assert model.device == torch.device("cpu")
    assert model.half().dtype is torch.float16


DENSE = ["attention.output.dense", "intermediate.dense", "output.dense"]
TARGETS = [["query", "value"], ["q_proj", "v_proj"], "all-linear", r".*encoder\.layer\.1\..*(query|dense)"]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_lora_finds_modules_by_either_format(model: ViTForImageClassification, targets: Any, tmp_path: Path) -> None:
    peft = oracle("peft")
    before = model(IMAGES).logits
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
    base = copy.deepcopy(model)
    adapted = peft.get_peft_model(model, config)
    adapters = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    found = {name.partition(".lora_")[0].partition(".vit.")[2] for name in adapters}
    query, value = "encoder.layer.{}.attention.attention.query", "encoder.layer.{}.attention.attention.value"
    expected = {
        "['query', 'value']": [query, value],
        "['q_proj', 'v_proj']": ["layers.{}.attention.q_proj", "layers.{}.attention.v_proj"],
        "all-linear": [name.partition(".1.")[0][4:] + ".{}." + name.partition(".1.")[2] for name in list(V4_TO_V5)[:6]],
    }.get(str(targets), [query, *("encoder.layer.{}." + name for name in DENSE)])
    layers = [1] if "encoder" in str(targets) else [0, 1]
    assert found == {name.format(layer) for name in expected for layer in layers}
    assert len(adapters) == 2 * len(found)
    after = adapted(IMAGES).logits
    assert not torch.allclose(before, after, atol=1e-4)
    adapted(IMAGES, labels=torch.tensor([0, 1])).loss.backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in trained)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(again(IMAGES).logits, after)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(IMAGES).logits, after, atol=1e-5, rtol=1e-5)
    merged.load_state_dict(ViTForImageClassification(merged.config).state_dict())


# peft uses a deprecated name of transformers.
@pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
def test_lora_adapters_load_in_both_libraries(hf: ModuleType, model: ViTForImageClassification, tmp_path: Path) -> None:
    peft = oracle("peft")
    model.save_pretrained(tmp_path / "base")
    reference = hf.ViTForImageClassification.from_pretrained(tmp_path / "base").eval()
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    adapted = peft.get_peft_model(reference, config)
    adapted.save_pretrained(tmp_path / "adapter")
    ours = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    torch.testing.assert_close(ours(IMAGES).logits, adapted(IMAGES).logits, atol=1e-5, rtol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    base = hf.ViTForImageClassification.from_pretrained(tmp_path / "base").eval()
    back = peft.PeftModel.from_pretrained(base, tmp_path / "ours")
    torch.testing.assert_close(back(IMAGES).logits, adapted(IMAGES).logits, atol=1e-5, rtol=1e-5)
