"""Adapters of PEFT added to and loaded into models, compared with transformers 5."""

import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from oracles import oracle
from safetensors.torch import load_file, save_file

import vitkit
from vitkit.transformers import adapters

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
KINDS = {"ViTForImageClassification": "ViTConfig", "DeiTForImageClassification": "DeiTConfig"}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLOSE: Any = {"atol": 1e-5, "rtol": 1e-5}

# peft uses a deprecated name of transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model:UserWarning"),
]


@pytest.fixture
def peft() -> ModuleType:
    return oracle("peft")


@pytest.fixture(params=KINDS)
def models(request: pytest.FixtureRequest, hf: ModuleType, peft: ModuleType, tmp_path: Path) -> list[Any]:
    """A model of transformers and ours, loaded from the same folder."""
    kind = request.param
    torch.manual_seed(0)
    getattr(vitkit, kind)(getattr(vitkit, KINDS[kind])(**SMALL)).save_pretrained(tmp_path / "base")
    return [getattr(library, kind).from_pretrained(tmp_path / "base") for library in (hf, vitkit)]


def lora(peft: ModuleType, **options: Any) -> Any:
    settings = {"r": 3, "target_modules": ["q_proj", "v_proj", "fc1"], "init_lora_weights": False} | options
    return peft.LoraConfig(**settings)


def add_same(models: list[Any], peft: ModuleType, name: str | None = None, **options: Any) -> None:
    """Adds adapters with the same random weights to both models."""
    for model in models:
        torch.manual_seed(hash(name) % 1000)
        model.add_adapter(lora(peft, **options), *([] if name is None else [name]))
    state = {key: tensor for key, tensor in models[0].state_dict().items() if "lora_" in key}
    assert models[1].load_state_dict(state, strict=False).unexpected_keys == []


def assert_same(models: list[Any]) -> None:
    with torch.no_grad():
        theirs, ours = (model.eval()(IMAGES).logits for model in models)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    trainable = [{name for name, each in model.named_parameters() if each.requires_grad} for model in models]
    assert trainable[0] == trainable[1]


def test_adapters_are_added_selected_disabled_and_deleted(models: list[Any], peft: ModuleType) -> None:
    with torch.no_grad():
        before = models[1](IMAGES).logits
    add_same(models, peft)
    add_same(models, peft, "other", target_modules=["k_proj"])
    assert_same(models)
    seen = [before]
    steps: dict[str, tuple[str, ...]] = {"set_adapter": ("default",), "disable_adapters": (), "enable_adapters": ()}
    for step, arguments in steps.items():
        for model in models:
            getattr(model, step)(*arguments)
        assert models[0].active_adapters() == models[1].active_adapters()
        assert_same(models)
        with torch.no_grad():
            seen.append(models[1](IMAGES).logits)
    assert torch.equal(seen[2], before)
    assert torch.equal(seen[3], seen[1])
    assert not torch.allclose(seen[1], before, atol=1e-3)
    for model in models:
        model.set_adapter(["default", "other"])
    assert models[1].active_adapters() == ["default", "other"]
    assert_same(models)
    for name in ("default", "other"):
        theirs, ours = (model.get_adapter_state_dict(name) for model in models)
        assert list(theirs) == list(ours)
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    for names in ("other", ["default"]):
        for model in models:
            model.delete_adapter(names)
        assert_same(models)
    assert not hasattr(models[1], "peft_config")
    with torch.no_grad():
        assert torch.equal(models[1](IMAGES).logits, before)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj", "fc2"], ["query", "dense"], "all-linear"], ids=str)
def test_saved_folders_are_those_of_transformers(
    models: list[Any], peft: ModuleType, targets: Any, tmp_path: Path
) -> None:
    theirs, ours = models
    newer = targets != ["query", "dense"]
    if targets == "all-linear":
        ours.name_format = "v5"
    ours.add_adapter(lora(peft, target_modules=targets, modules_to_save=["classifier"]))
    ours.save_pretrained(tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    opened = [type(ours), peft.PeftModel, *([type(theirs)] if newer else [])]
    with torch.no_grad():
        expected = ours.eval()(IMAGES).logits
        for each in opened:
            base = (type(ours).from_pretrained(tmp_path / "base"),) if each is peft.PeftModel else ()
            again = each.from_pretrained(*base, tmp_path / "ours").eval()
            torch.testing.assert_close(again(IMAGES).logits, expected, **CLOSE)
    if newer and targets != "all-linear":
        theirs.add_adapter(lora(peft, target_modules=targets, modules_to_save=["classifier"]))
        theirs.save_pretrained(tmp_path / "theirs")
        saved = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours")]
        assert {key: tensor.shape for key, tensor in saved[0].items()} == {k: t.shape for k, t in saved[1].items()}
        configs = [json.loads((tmp_path / each / "adapter_config.json").read_text()) for each in ("theirs", "ours")]
        for config in configs:
            config["target_modules"].sort()
        assert configs[0] == configs[1]
        loaded, report = type(ours).from_pretrained(tmp_path / "theirs", output_loading_info=True)
        assert not any(report.values())
        theirs.eval()
        torch.testing.assert_close(loaded(IMAGES).logits, theirs(IMAGES).logits, **CLOSE)
    ours.save_pretrained(tmp_path / "plain", save_peft_format=False)
    plain = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    assert {f"base_model.model.{name}" for name in plain} == set(
        load_file(tmp_path / "ours" / "adapter_model.safetensors")
    )


def test_adapters_are_loaded_from_folders_and_state_dicts(
    models: list[Any], peft: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_same(models, peft)
    folder = tmp_path / "adapter"
    models[0].save_pretrained(folder)
    state = {f"base_model.model.{k}": each for k, each in models[0].get_adapter_state_dict().items()}
    fresh = [type(model).from_pretrained(tmp_path / "base") for model in models]
    for model in fresh:
        assert not model.load_adapter(str(folder)).missing_keys
        model.load_adapter(peft_config=lora(peft), adapter_state_dict=dict(state), adapter_name="b", is_trainable=True)
    assert_same(fresh)
    for model in fresh:
        model.set_adapter("b")
    assert_same(fresh)
    with torch.no_grad():
        torch.testing.assert_close(fresh[1](IMAGES).logits, models[1](IMAGES).logits, **CLOSE)
    partial = {name: each for name, each in load_file(folder / "adapter_model.safetensors").items() if "lora_A" in name}
    save_file(partial | {"base_model.model.unknown.lora_A.weight": torch.ones(1)}, folder / "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING):
        report = fresh[1].load_adapter(folder, "partial")
    assert all("lora_B.partial" in key for key in report.missing_keys)
    assert len(report.missing_keys) == 6
    assert len(report.unexpected_keys) == 1
    assert "missing" in caplog.text


def test_loaded_weights_replace_those_of_an_adapter(models: list[Any], peft: ModuleType, tmp_path: Path) -> None:
    add_same(models, peft)
    models[0].save_pretrained(tmp_path / "adapter")
    fresh = [type(model).from_pretrained(tmp_path / "base") for model in models]
    for model in fresh:
        model.enable_peft_hotswap(target_rank=3)
        model.add_adapter(lora(peft))
        model.load_adapter(str(tmp_path / "adapter"), adapter_name="default")
        with pytest.raises(RuntimeError, match="Call `enable_peft_hotswap` before loading the first adapter"):
            model.enable_peft_hotswap()
        with pytest.raises(ValueError, match="check_compiles should be one of"):
            model.enable_peft_hotswap(check_compiled="never")
    assert_same(fresh)
    with torch.no_grad():
        torch.testing.assert_close(fresh[1](IMAGES).logits, models[1](IMAGES).logits, **CLOSE)


def test_errors_are_those_of_transformers(
    models: list[Any], peft: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("set_adapter", ("default",)),
        ("disable_adapters", ()),
        ("enable_adapters", ()),
        ("active_adapters", ()),
        ("get_adapter_state_dict", ()),
        ("delete_adapter", ("default",)),
        ("load_adapter", ()),
        ("load_adapter", (str(tmp_path),)),
    ]
    later: list[tuple[str, tuple[Any, ...]]] = [
        ("add_adapter", (lora(peft),)),
        ("add_adapter", ("lora", "new")),
        ("set_adapter", ("unknown",)),
        ("set_adapter", (["default", "unknown"],)),
        ("delete_adapter", ("unknown",)),
        ("load_adapter", (str(tmp_path / "adapter"),)),
        ("save_pretrained", (tmp_path / "two",)),
    ]
    for step in (calls, later):
        for name, arguments in step:
            found = []
            for model in models:
                with pytest.raises((ValueError, TypeError)) as caught:
                    getattr(model, name)(*arguments)
                found.append((caught.type, " ".join(str(caught.value).split())))
            assert found[0] == found[1], name
        if step is calls:
            add_same(models, peft)
            add_same(models, peft, "other")
            for model in models:
                model.set_adapter(["default", "other"])
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"PEFT is not installed\. Please install it with `pip install peft`"):
        models[1].add_adapter(lora(peft))
    monkeypatch.undo()
    monkeypatch.setattr(adapters.importlib.metadata, "version", lambda name: "0.4.0")
    with pytest.raises(ValueError, match=r"not compatible, please use a version >= 0\.5\.0"):
        models[1].add_adapter(lora(peft))
