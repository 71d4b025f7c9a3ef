"""Arguments of `from_pretrained`, configs and models of all versions: accepted, or refused with the reason."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from family_cases import MLP

import vitkit

KINDS = ["ViTForImageClassification", "DeiTForImageClassification", "BeitForImageClassification"]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
HARMLESS: dict[str, Any] = {
    **dict.fromkeys(
        ("from_tf", "from_flax", "load_in_8bit", "load_in_4bit", "trust_remote_code", "use_kernels"), False
    ),
    **dict.fromkeys(("quantization_config", "use_auth_token", "gguf_file", "device_mesh", "tp_plan", "token"), None),
    **dict.fromkeys(
        ("mirror", "proxies", "resume_download", "max_memory", "offload_folder", "generation_config"), None
    ),
    **dict.fromkeys(("_fast_init", "low_cpu_mem_usage", "local_files_only", "weights_only", "trust_remote_code"), True),
    "torchscript": False,
    "subfolder": "",
    "revision": "main",
    "adapter_kwargs": {},
    "force_download": False,
    "attn_implementation": "eager",
    "output_attentions": True,
    "offload_state_dict": False,
    "code_revision": None,
}
REFUSED: dict[str, Any] = {
    **dict.fromkeys(("from_tf", "from_flax", "load_in_8bit", "load_in_4bit"), True),
    "quantization_config": {"bits": 4},
    "gguf_file": "a.gguf",
    "tp_plan": "auto",
    "device_mesh": "mesh",
    "weights_only": False,
    "generation_config": {"a": 1},
}


def make(kind: str) -> Any:
    torch.manual_seed(0)
    model_class = getattr(vitkit, kind)
    return model_class(model_class.config_class(**MLP)).eval()


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def test_arguments_without_effect_are_accepted(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    expected = model(IMAGES).logits
    for name, value in HARMLESS.items():
        again = type(model).from_pretrained(tmp_path, **{name: value})
        torch.testing.assert_close(again(IMAGES).logits, expected, atol=1e-5, rtol=1e-5)


def test_unsupported_arguments_raise_with_one_sentence(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    for name, value in REFUSED.items():
        with pytest.raises(ValueError, match=rf"{name}=.* is not supported[;:] ") as caught:
            type(model).from_pretrained(tmp_path, **{name: value})
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'nonsense'; from_pretrained accepts ") as caught:
        type(model).from_pretrained(tmp_path, nonsense=1)
    for name in ("hidden_size", "ignore_mismatched_sizes", "revision"):
        assert str(caught.value).count(f" {name},") == 1


def test_a_config_and_a_state_dict_need_no_folder(model: Any) -> None:
    again = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    with pytest.raises(ValueError, match=r"from_pretrained\(None\) needs config= and state_dict="):
        type(model).from_pretrained(None, config=model.config)


def test_configs_of_transformers_are_accepted(hf: ModuleType, model: Any, tmp_path: Path) -> None:
    theirs = getattr(hf, type(model.config).__name__)(**MLP)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, config=theirs)
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    assert type(type(model)(theirs).config) is type(model.config)


def test_activation_checkpointing_can_be_set_in_the_config(model: Any, tmp_path: Path) -> None:
    config = type(model.config)(**MLP)
    config.gradient_checkpointing = True
    assert type(model)(config).is_gradient_checkpointing
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path, gradient_checkpointing=True).is_gradient_checkpointing
    assert not model.is_gradient_checkpointing


def test_torchscript_returns_tuples_as_in_transformers_4(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert isinstance(type(model).from_pretrained(tmp_path, torchscript=True)(IMAGES), tuple)
    assert isinstance(type(model)(type(model.config)(**MLP, torchscript=True))(IMAGES), tuple)


def test_attention_is_selected_with_a_string_or_a_dict(model: Any) -> None:
    model.set_attn_implementation({"": "eager"})
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match=r"attn_implementation has keys 'vit'; expected only ''"):
        model.set_attn_implementation({"vit": "eager"})
    assert type(model).can_generate() is False
    assert model.config.get_text_config() is model.config


def test_configs_are_updated_from_strings(hf: ModuleType) -> None:
    for library in (hf, vitkit):
        config = library.ViTConfig()
        config.update_from_string("hidden_size=32,layer_norm_eps=1e-3,qkv_bias=false,hidden_act=relu")
        values = config.hidden_size, config.layer_norm_eps, config.qkv_bias, config.hidden_act
        assert values == (32, 1e-3, False, "relu")
        for text, message in (
            ("nothing=1", "key nothing isn't in the original config dict"),
            ("qkv_bias=maybe", "can't derive true or false from maybe"),
            ("hidden_size=a", "invalid literal for int"),
        ):
            with pytest.raises(ValueError, match=message):
                config.update_from_string(text)
        with pytest.raises(TypeError, match="You can only update int, float, bool or string values in the config"):
            config.update_from_string("architectures=1")


@pytest.mark.slow
def test_activations_are_those_of_transformers(hf: ModuleType) -> None:
    from transformers.activations import ACT2FN

    for name in set(ACT2FN):
        ours = vitkit.DeiTModel(vitkit.DeiTConfig(**MLP, hidden_act=name)).eval()
        theirs = hf.DeiTModel(hf.DeiTConfig(**MLP, hidden_act=name)).eval()
        ours.load_state_dict(theirs.state_dict(), strict=False)
        with torch.no_grad():
            expected = theirs(IMAGES).last_hidden_state
            torch.testing.assert_close(ours(IMAGES).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_trainer_and_peft_reopen(hf: ModuleType, kind: str, tmp_path: Path) -> None:
    from oracles import oracle

    peft, model = oracle("peft"), make(kind)
    arguments = hf.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    images = [{"pixel_values": IMAGES[0], "labels": torch.tensor(index % 3)} for index in range(4)]
    hf.Trainer(model=model, args=arguments, train_dataset=images).train()
    for library in (vitkit, hf):
        again, report = getattr(library, kind).from_pretrained(tmp_path / "checkpoint-2", output_loading_info=True)
        assert not any(report.values())
        torch.testing.assert_close(again(IMAGES).logits, model.eval()(IMAGES).logits, atol=1e-5, rtol=1e-5)
    for targets in (["query", "value"], ["q_proj", "v_proj"]):
        adapted = peft.get_peft_model(make(kind), peft.LoraConfig(target_modules=targets, init_lora_weights=False))
        adapted.save_pretrained(tmp_path / "adapter")
        reopened = peft.PeftModel.from_pretrained(make(kind), tmp_path / "adapter")
        expected = adapted.eval()(pixel_values=IMAGES).logits
        torch.testing.assert_close(reopened.eval()(pixel_values=IMAGES).logits, expected, atol=1e-5, rtol=1e-5)
        assert not torch.equal(expected, make(kind)(IMAGES).logits)
