"""The module tree: users' programs give the results that they give with transformers 4.57.6 and 5."""

import copy
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import user_code5
from oracles import oracle
from torch import Tensor, nn
from user_code4 import IMAGES, PROGRAMS, SMALL

import vitkit
from vitkit import ViTConfig, ViTForImageClassification, ViTModel

USER_CODE = Path(__file__).parent / "user_code4.py"


def save(path: Path) -> Path:
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**SMALL, num_labels=3, initializer_range=0.1)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("user_code5"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = os.environ.get("VITKIT_TRANSFORMERS4")
    if not packages or not Path(packages).is_dir():
        pytest.skip("needs transformers 4: run scripts/transformers4.py FOLDER and set VITKIT_TRANSFORMERS4=FOLDER")
    path = save(tmp_path_factory.mktemp("user_code4"))
    packages = os.pathsep.join([packages, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": packages, "HF_HUB_OFFLINE": "1"}
    run = [sys.executable, str(USER_CODE), str(path)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def compare(expected: Any, got: Any, where: str) -> None:
    """Compares results: numbers and tensors to float32 precision, the rest exactly."""
    if isinstance(expected, dict):
        assert list(expected) == list(got), where
        for name, value in expected.items():
            compare(value, got[name], f"{where}.{name}")
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, msg=lambda text: f"{where}: {text}")
    elif (
        isinstance(expected, list | tuple) and expected and all(isinstance(value, float | Tensor) for value in expected)
    ):
        assert len(expected) == len(got)
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(other, one, atol=2e-5, rtol=2e-5, msg=lambda text: f"{where}: {text}")
    else:
        assert got == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_give_the_results_of_transformers_4(folder: Path, name: str) -> None:
    expected = torch.load(folder / "results.pth", weights_only=False)[name]
    torch.manual_seed(0)
    compare(expected, PROGRAMS[name](vitkit, str(folder)), name)


@pytest.mark.parametrize("name", user_code5.PROGRAMS)
def test_programs_give_the_results_of_transformers_5(hf: ModuleType, folder5: Path, name: str) -> None:
    results = []
    for library in (hf, vitkit):
        torch.manual_seed(0)
        results.append(user_code5.PROGRAMS[name](library, str(folder5)))
    compare(*results, name)


def test_models_of_transformers_leave_our_weights_unchanged(hf: ModuleType, folder5: Path) -> None:
    class Outer(hf.PreTrainedModel):
        config_class = hf.ViTConfig

        def __init__(self, config: Any, backbone: nn.Module):
            super().__init__(config)
            self.backbone = backbone
            self.head = nn.Linear(32, 3)
            self.post_init()

    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "vocab_size": 20}
    decoder = hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, add_cross_attention=True))
    loaded, created = ViTModel.from_pretrained(folder5, add_pooling_layer=False), ViTModel(ViTConfig(**SMALL))
    for model in (loaded, created):
        model.embeddings.dropout = nn.Linear(2, 2)  # a new module is initialized
        model.embeddings.dropout.bias.data.fill_(1.0)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        outer = Outer(hf.ViTConfig(**SMALL), model)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed == {"embeddings.dropout.weight", "embeddings.dropout.bias"}
        assert outer.head.bias.abs().max() == 0
    encoder = ViTModel.from_pretrained(folder5, add_pooling_layer=False)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    caption = hf.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in caption.encoder.state_dict().items())
    tokens = torch.tensor([[1, 5, 7]] * 4)
    output = caption(pixel_values=IMAGES, decoder_input_ids=tokens, labels=tokens)
    torch.testing.assert_close(output.encoder_last_hidden_state, encoder(IMAGES).last_hidden_state)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert caption.generate(IMAGES, max_new_tokens=2, decoder_start_token_id=1, pad_token_id=2).shape[0] == 4


class Weighted(ViTForImageClassification):
    """A subclass with a parameter and buffers that the file of the base class lacks."""

    def __init__(self, config: ViTConfig):
        super().__init__(config)
        self.temperature = nn.Parameter(torch.full((1,), 3.0))
        self.register_buffer("class_weights", torch.tensor([1.0, 2.0, 4.0]))
        self.register_buffer("steps", torch.arange(3), persistent=False)
        self.extra = nn.Linear(32, 2)
        self.post_init()


def test_subclasses_keep_what_their_constructors_set(folder5: Path) -> None:
    base = ViTForImageClassification.from_pretrained(folder5)
    for _ in range(2):
        model = Weighted.from_pretrained(folder5, dtype=torch.float64)
        assert model.temperature.tolist() == [3.0]
        assert model.class_weights.tolist() == [1.0, 2.0, 4.0]
        assert model.steps.tolist() == [0, 1, 2]
        assert model.extra.bias.tolist() == [0.0, 0.0]
        assert 0.05 < model.extra.weight.std() < 0.2
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
        assert torch.equal(model.classifier.weight.float(), base.classifier.weight)


MODULES = ["modeling_vit", "configuration_vit", "image_processing_vit", "image_processing_pil_vit"]


@pytest.mark.parametrize("name", MODULES)
def test_module_paths_are_those_of_transformers(hf: ModuleType, name: str) -> None:
    theirs = importlib.import_module(f"transformers.models.vit.{name}")
    ours = importlib.import_module(f"vitkit.transformers.models.vit.{name}")
    classes = {each.__name__ for each in vars(theirs).values() if getattr(each, "__module__", "") == theirs.__name__}
    names = {each for each in classes if each.startswith("ViT") and not each.endswith("Kwargs")}
    assert set(theirs.__all__) <= names <= set(ours.__all__)
    assert ours.__all__ == sorted(ours.__all__)
    assert all(isinstance(getattr(ours, each), type) for each in ours.__all__)
    assert set(theirs.__all__) <= set(importlib.import_module("vitkit.transformers.models.vit").__all__)


def test_copied_models_are_independent(folder5: Path) -> None:
    model = ViTForImageClassification.from_pretrained(folder5)
    calls: list[int] = []
    model.vit.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    duplicate = copy.deepcopy(model)
    duplicate.vit.layers[0].mlp.fc1.weight.data.zero_()
    assert duplicate.vit.encoder.layer[0].intermediate.dense.weight.abs().max() == 0
    assert model.vit.encoder.layer[0].intermediate.dense.weight.abs().max() > 0
    duplicate(IMAGES)
    assert calls == [1]
    buffer = io.BytesIO()
    torch.save(ViTForImageClassification.from_pretrained(folder5), buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(IMAGES).logits, model(IMAGES).logits)


def test_attributes_that_transformers_reads(hf: ModuleType) -> None:
    names = ["_supports_sdpa", "_can_compile_fullgraph", "_no_split_modules", "main_input_name", "base_model_prefix"]
    names += ["supports_gradient_checkpointing", "_tied_weights_keys", "model_tags"]
    for name in names:
        assert getattr(ViTModel, name) == getattr(hf.ViTModel, name), name
    for name in ("can_generate", "_can_set_attn_implementation", "_can_set_experts_implementation"):
        assert getattr(ViTModel, name)() == getattr(hf.ViTModel, name)(), name
    config = ViTConfig(**SMALL)
    assert config.get_text_config(decoder=True) is config
    assert set(hf.ViTConfig(**SMALL).to_diff_dict()) - {"transformers_version"} <= {*config, "model_type"}


def test_modules_wrapped_by_accelerate_give_the_same_outputs(folder5: Path) -> None:
    """Accelerate replaces the `forward` of every module, also with arguments that transformers does not have."""
    accelerate = oracle("accelerate")
    model = ViTModel.from_pretrained(folder5)
    wrapped = copy.deepcopy(model)
    limits = {"cpu": 80_000, "disk": 10**9}
    assert "embeddings" in accelerate.infer_auto_device_map(model, limits, ViTModel._no_split_modules)
    accelerate.cpu_offload(wrapped, execution_device=torch.device("cpu"))
    for layer in wrapped.encoder.layer:
        for module in (layer, layer.attention, layer.attention.attention):
            accelerate.hooks.add_hook_to_module(module, accelerate.hooks.ModelHook())
    assert "forward" in wrapped.encoder.layer[0].attention.__dict__
    options = {"attention_mask": torch.ones(4, 5, dtype=torch.bool), "output_attentions": True}
    expected, got = model(IMAGES, **options), wrapped(IMAGES, **options)
    compare(dict(expected), dict(got), "accelerate")
    assert got.attentions[1].shape == (4, 4, 5, 5)


def test_the_dropout_of_a_layer_is_two_modules(folder5: Path) -> None:
    layer = ViTModel.from_pretrained(folder5).layers[0]
    with pytest.raises(AttributeError, match="dropout"):
        _ = layer.dropout
    assert layer.mlp is layer.mlp
    assert [name for name, _ in layer.mlp.named_modules()] == ["", "fc1", "activation_fn", "fc2"]


def test_heads_of_replaced_modules_are_not_pruned(folder5: Path) -> None:
    model = ViTModel.from_pretrained(folder5)
    model.layers[0].attention.q_proj = nn.Sequential(model.layers[0].attention.q_proj)
    with pytest.raises(TypeError, match="cannot prune heads of a layer whose projections are Sequential"):
        model.prune_heads({0: [1]})
    model.layers[1].attention = nn.Identity()
    with pytest.raises(TypeError, match="the attention of layer 1 is a Identity"):
        model.prune_heads({1: [1]})
