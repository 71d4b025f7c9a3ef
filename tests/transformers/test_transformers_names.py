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
from vitkit.transformers.names import to_v4, to_v5

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


def test_parameters_have_the_names_of_version_5(hf: ModuleType, model: ViTForImageClassification) -> None:
    config = hf.ViTConfig(**{name: value for name, value in model.config.to_dict().items() if name != "model_type"})
    reference = hf.ViTForImageClassification(config)
    assert list(dict(model.named_parameters())) == list(dict(reference.named_parameters())) == list(model.state_dict())
    assert model.num_parameters() == reference.num_parameters()


def test_names_are_converted_in_both_directions(model: ViTForImageClassification) -> None:
    base = list(model.vit.state_dict())
    assert [to_v5(to_v4(name)) for name in base] == base
    assert [to_v5(name) for name in base] == base
    assert to_v4("layers.11.attention.q_proj.lora_A.default.weight") == (
        "encoder.layer.11.attention.attention.query.lora_A.default.weight"
    )
    assert to_v4("layers.0.mlp.fc22.weight") == "encoder.layer.0.mlp.fc22.weight"
    assert not {to_v4(name) for name in base if "layers" in name} & set(base)


def test_state_dicts_of_both_formats_load_and_are_written(model: ViTForImageClassification) -> None:
    v5 = model.state_dict()
    model.name_format = "v4"
    v4 = model.state_dict()
    assert "vit.encoder.layer.0.attention.attention.query.weight" in v4
    assert "vit.encoder.layer.1.output.dense.bias" in v4
    assert len(v4) == len(v5)
    assert not [name for name in v4 if ".layers." in name or "_proj" in name]
    for state_dict in (v4, v5):
        other = ViTForImageClassification(model.config)
        assert other.load_state_dict(state_dict).missing_keys == []
        assert torch.equal(other.eval()(IMAGES).logits, model(IMAGES).logits)
    nested = nn.ModuleDict({"inner": copy.deepcopy(model)})
    nested.load_state_dict({f"inner.{name}": tensor for name, tensor in v4.items()})
    assert list(nested.state_dict())[4] == "inner.vit.encoder.layer.0.attention.attention.query.weight"
    incomplete = {name: tensor for name, tensor in v4.items() if "layer.1.output.dense.bias" not in name}
    with pytest.raises(RuntimeError, match=re.escape('Missing key(s) in state_dict: "vit.layers.1.mlp.fc2.bias"')):
        ViTForImageClassification(model.config).load_state_dict(incomplete)
    both = v4 | {"vit.layers.0.mlp.fc1.bias": torch.zeros(64)}
    with pytest.raises(
        ValueError,
        match=re.escape(
            "the state dict contains vit.layers.0.mlp.fc1.bias under both its transformers 4 and transformers 5 names"
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
    replacement = nn.Linear(32, 32)
    model.vit.encoder.layer[0].attention.attention.value = replacement
    assert model.vit.layers[0].attention.v_proj is replacement
    model.vit.encoder.layer[0].output.dense = nn.Linear(64, 32)
    assert "vit.encoder.layer.0" not in [name for name, _ in model.named_children()]
    with pytest.raises(AttributeError, match="the group of modules has no 'quary'; its modules are query, key, value"):
        _ = model.vit.encoder.layer[0].attention.attention.quary


def test_named_modules_lists_both_names_and_each_module_once(model: ViTForImageClassification) -> None:
    listed = dict(model.named_modules())
    assert set(V4_TO_V5) <= set(listed)
    assert set(V4_TO_V5.values()) <= set(listed)
    linears = [module for module in listed.values() if isinstance(module, nn.Linear)]
    assert len(linears) == len(set(linears)) == 2 * 6 + 1
    sizes = [p.numel() for module in listed.values() for p in module.parameters(recurse=False)]
    assert sum(sizes) == model.num_parameters()
    modules = list(model.vit.modules())
    assert len(modules) == len(set(modules))
    assert not [module for module in modules if type(module).__name__ == "ModuleAlias"]
    assert listed["vit.encoder.layer.1.attention.attention.query"].in_features == 32
    assert len(dict(model.named_modules(remove_duplicate=False))) == len(listed) - 2 * 7
    assert "ModuleAlias" not in repr(model)


def test_hooks_registered_by_either_name_run_once(model: ViTForImageClassification) -> None:
    calls: list[str] = []
    for v4, v5 in V4_TO_V5.items():
        for name in (v4, v5):
            dict(model.named_modules())[name].register_forward_hook(lambda *_, name=name: calls.append(name))
    model.vit.encoder.layer[0].register_forward_pre_hook(lambda *_: calls.append("first"))
    model(IMAGES)
    assert sorted(calls) == sorted([*V4_TO_V5, *V4_TO_V5.values(), "first"])
    with pytest.raises(ValueError, match=re.escape("would never run; register it on .query, .key, .value")):
        model.vit.encoder.layer[0].attention.attention.register_forward_hook(lambda *_: None)


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


TARGETS = [["query", "value"], ["q_proj", "v_proj"], "all-linear", r".*encoder\.layer\.1\..*(query|dense)"]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_lora_finds_modules_by_either_format(model: ViTForImageClassification, targets: Any, tmp_path: Path) -> None:
    peft = oracle("peft")
    before = model(IMAGES).logits
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["classifier"], init_lora_weights=False)
    base = copy.deepcopy(model)
    adapted = peft.get_peft_model(model, config)
    adapters = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    found = {name.partition(".lora_")[0].rpartition(".")[2] for name in adapters}
    layers = {name.split(".")[4] for name in adapters}
    assert found == {
        "['query', 'value']": {"q_proj", "v_proj"},
        "['q_proj', 'v_proj']": {"q_proj", "v_proj"},
        "all-linear": {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"},
    }.get(str(targets), {"q_proj", "o_proj", "fc1", "fc2"})
    assert layers == ({"1"} if "encoder" in str(targets) else {"0", "1"})
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
