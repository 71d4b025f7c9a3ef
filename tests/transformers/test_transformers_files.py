"""Checkpoint folders: transformers' load in vitkit and the other way round, in every form; errors and reports."""

import json
import logging
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file

from vitkit import (
    DeiTConfig,
    DeiTForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTModel,
    load,
)

OURS = {cls.__name__: cls for cls in (ViTModel, ViTForImageClassification, ViTForMaskedImageModeling)}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
    "encoder_stride": 8,
}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(hf: ModuleType, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**SMALL, num_labels=3))
    model.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def make(model_class: Any = ViTForImageClassification, **settings: Any) -> Any:
    torch.manual_seed(0)
    return model_class(ViTConfig(**SMALL | settings)).eval()


@pytest.mark.parametrize("newer", [False, True], ids=["v4 names", "v5 names"])
@pytest.mark.parametrize("kind", OURS)
def test_folders_load_in_both_libraries(hf: ModuleType, kind: str, newer: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = getattr(hf, kind)(hf.ViTConfig(**SMALL, num_labels=3)).eval()
    reference.save_pretrained(tmp_path / "hf", save_original_format=not newer)
    saved = load_file(tmp_path / "hf" / "model.safetensors")
    assert any("q_proj" in name for name in saved) == newer
    model, report = OURS[kind].from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values())
    assert not model.training
    torch.testing.assert_close(model(IMAGES)[0], reference(IMAGES)[0], atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "ours", save_original_format=not newer)
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert written.keys() == saved.keys()
    assert all(torch.equal(written[name], saved[name]) for name in saved)
    config = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "ours")]
    assert config[0] | {"transformers_version": None} == config[1] | {"transformers_version": None}
    again, report = getattr(hf, kind).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(again(IMAGES)[0], reference(IMAGES)[0])


@pytest.mark.parametrize("source", OURS)
@pytest.mark.parametrize("kind", OURS)
def test_loading_reports_match_transformers(
    hf: ModuleType, source: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(OURS[source], num_labels=3).save_pretrained(tmp_path)
    _, expected = getattr(hf, kind).from_pretrained(tmp_path, output_loading_info=True)
    with caplog.at_level(logging.WARNING, logger="vitkit"):
        model, report = OURS[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == expected["missing_keys"]
    assert report["mismatched_keys"] == expected["mismatched_keys"] == set()
    assert {name.removeprefix("vit.") for name in report["unexpected_keys"]} == {
        name.removeprefix("vit.") for name in expected["unexpected_keys"]
    }
    assert ("newly initialized" in caplog.text) == bool(report["missing_keys"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    loaded, saved = model.base_model.state_dict(), make(OURS[source], num_labels=3).base_model.state_dict()
    assert all(
        torch.equal(loaded[name], saved[name]) for name in loaded.keys() & saved.keys() if "mask_token" not in name
    )


def test_another_number_of_classes(folder: Path, hf: ModuleType) -> None:
    with pytest.raises(
        RuntimeError,
        match=re.escape("size mismatch for classifier.bias: (3,) in the file, (7,) in the model; classifier"),
    ):
        ViTForImageClassification.from_pretrained(folder, num_labels=7)
    options: dict[str, Any] = {"num_labels": 7, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, report = ViTForImageClassification.from_pretrained(folder, **options)
    _, expected = hf.ViTForImageClassification.from_pretrained(folder, **options)
    assert {(name, tuple(a), tuple(b)) for name, a, b in expected["mismatched_keys"]} == report["mismatched_keys"]
    assert model(IMAGES).logits.shape == (2, 7)
    assert model.classifier.bias.abs().max() == 0
    assert model.config.id2label[6] == "LABEL_6"
    labels = {0: "a", 1: "b"}
    model = ViTForImageClassification.from_pretrained(
        folder, id2label=labels, label2id={"a": 0, "b": 1}, ignore_mismatched_sizes=True
    )
    assert model.config.id2label == labels
    assert model.num_labels == 2


def test_dtypes_devices_attention_and_arguments(folder: Path) -> None:
    load = ViTForImageClassification.from_pretrained
    assert load(folder).dtype is torch.float32
    for dtype in (torch.bfloat16, "bfloat16"):
        model = load(folder, dtype=dtype)
        assert model.dtype is model.config.dtype is torch.bfloat16
    assert load(folder, torch_dtype=torch.float16).dtype is torch.float16
    load(folder, dtype="bfloat16").save_pretrained(folder / "half")
    assert load(folder / "half").dtype is torch.bfloat16
    assert json.loads((folder / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load(folder, attn_implementation="eager").config._attn_implementation == "eager"
    for device_map in ("cpu", {"": "cpu"}, torch.device("cpu"), "auto"):
        assert load(folder, device_map=device_map).device.type in ("cpu", "cuda")
    assert ViTModel.from_pretrained(folder, add_pooling_layer=False).pooler is None
    assert load(folder, config=ViTConfig(**SMALL, num_labels=3, layer_norm_eps=1e-3)).vit.layernorm.eps == 1e-3
    assert load(folder, output_attentions=True)(IMAGES).attentions is not None
    with pytest.raises(ValueError, match="device_map has keys vit, classifier; only a single device"):
        load(folder, device_map={"vit": 0, "classifier": 1})
    with pytest.raises(ValueError, match="unknown dtype 'float33'"):
        load(folder, dtype="float33")
    with pytest.raises(TypeError, match="unexpected keyword argument 'unknown'"):
        load(folder, unknown=1)
    with pytest.raises(ValueError, match="weights_only=False is not supported: loading could run code"):
        load(folder, weights_only=False)


def test_sharded_variant_subfolder_and_pickled_files(folder: Path, hf: ModuleType) -> None:
    model = ViTForImageClassification.from_pretrained(folder)
    expected = model(IMAGES).logits
    model.save_pretrained(folder / "shards", max_shard_size="20KB")
    assert (folder / "shards" / "model.safetensors.index.json").exists()
    model.save_pretrained(folder / "fp16", variant="fp16")
    assert (folder / "fp16" / "model.fp16.safetensors").exists()
    model.save_pretrained(folder / "both", variant="fp16", max_shard_size="20KB")
    assert (folder / "both" / "model.safetensors.index.fp16.json").exists()
    for name, options in (("shards", {}), ("fp16", {"variant": "fp16"}), ("both", {"variant": "fp16"})):
        again, report = ViTForImageClassification.from_pretrained(
            folder, subfolder=name, output_loading_info=True, **options
        )
        assert not any(report.values())
        assert torch.equal(again(IMAGES).logits, expected)
        hf_again = hf.ViTForImageClassification.from_pretrained(folder / name, **options)
        torch.testing.assert_close(hf_again(IMAGES).logits, expected, atol=1e-5, rtol=1e-5)
    model.name_format = "v4"
    old = folder / "old"
    old.mkdir()
    model.config.save_pretrained(old)
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    assert torch.equal(ViTForImageClassification.from_pretrained(old)(IMAGES).logits, expected)
    assert torch.equal(ViTForImageClassification.from_pretrained(old, use_safetensors=False)(IMAGES).logits, expected)
    with pytest.raises(OSError, match=re.escape("has none of model.safetensors, model.safetensors.index.json")):
        ViTForImageClassification.from_pretrained(old, use_safetensors=True)
    model.save_pretrained(folder / "safe", safe_serialization=False)
    assert sorted(path.name for path in (folder / "safe").iterdir()) == ["config.json", "model.safetensors"]


def test_state_dict_and_key_mapping(folder: Path) -> None:
    model = ViTForImageClassification.from_pretrained(folder)
    renamed = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    again = ViTForImageClassification.from_pretrained(folder, state_dict=renamed, key_mapping={r"^net\.": ""})
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    save_file(renamed, folder / "model.safetensors")
    again = ViTForImageClassification.from_pretrained(folder, key_mapping={r"^net\.": ""})
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    model.save_pretrained(
        folder / "doubled", state_dict={name: 2 * tensor for name, tensor in model.state_dict().items()}
    )
    doubled = ViTForImageClassification.from_pretrained(folder / "doubled")
    assert torch.equal(doubled.classifier.weight, 2 * model.classifier.weight)
    model.save_pretrained(folder / "nothing", is_main_process=False)
    assert not (folder / "nothing").exists()


def test_folders_without_a_model_raise(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(OSError, match="is neither a local folder nor a valid id"):
        ViTModel.from_pretrained(tmp_path / "nowhere")
    (folder / "config.json").unlink()
    with pytest.raises(
        OSError, match=r"has no config\.json: pass config=, or save the config with model\.config\.save_pretrained"
    ):
        ViTForImageClassification.from_pretrained(folder)
    assert ViTForImageClassification.from_pretrained(folder, config=ViTConfig(**SMALL, num_labels=3))
    DeiTForImageClassification(DeiTConfig(**SMALL)).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"has model_type 'deit' and no parameter.* expects 'vit': use vitkit\.AutoM"):
        ViTForImageClassification.from_pretrained(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="should be a directory, not a file"):
        make().save_pretrained(tmp_path / "file")
    with pytest.raises(TypeError, match=r"takes a vitkit\.ViTConfig, not builtins\.dict"):
        ViTModel({})  # type: ignore[arg-type]


def test_hub_files_are_downloaded_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    def download(repo_id: str, filename: str, **options: Any) -> str:
        requests.append((repo_id, filename, options))
        if not (folder / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        return str(folder / filename)

    model = ViTForImageClassification.from_pretrained(folder)
    model.save_pretrained(folder / "shards", max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    for file in (folder / "shards").iterdir():
        file.rename(folder / file.name)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    options = {"revision": "v1", "cache_dir": "here", "local_files_only": True, "token": "secret"}
    again = ViTForImageClassification.from_pretrained("someone/vit", **options)
    assert torch.equal(again(IMAGES).logits, model(IMAGES).logits)
    # An adapter is looked for if PEFT is installed.
    names = [name for _, name, _ in requests if name != "adapter_config.json"]
    assert names[:3] == ["config.json", "model.safetensors", "model.safetensors.index.json"]
    assert len(requests) > 5
    assert all(
        repo == "someone/vit" and options_given == {"subfolder": None, **options} for repo, _, options_given in requests
    )
    assert again.name_or_path == "someone/vit"
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json has no weight_map"):
        ViTForImageClassification.from_pretrained("someone/vit")


def test_uploads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Api:
        def __init__(self, token: Any):
            calls.append(token)

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            calls.append((repo_id, options))
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, **options: Any) -> Any:
            calls.append(options | {"files": sorted(path.name for path in Path(options["folder_path"]).iterdir())})
            return SimpleNamespace(commit_url="the commit")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = ViTForImageClassification.from_pretrained(folder)
    assert (
        model.push_to_hub("vit", private=True, token="secret", commit_message="new", max_shard_size="20KB")
        == "the commit"
    )
    assert calls[:2] == ["secret", ("vit", {"private": True, "exist_ok": True})]
    assert calls[2]["repo_id"] == "me/vit"
    assert calls[2]["commit_message"] == "new"
    assert calls[2]["files"][:2] == ["config.json", "model-00001-of-00005.safetensors"]
    assert model.config.push_to_hub("vit") == "the commit"
    assert calls[-1]["files"] == ["config.json"]
    model.save_pretrained(folder / "pushed", push_to_hub=True, repo_id="other")
    assert calls[-1]["repo_id"] == "me/other"
    assert calls[-1]["allow_patterns"] == ["config.json", "model*"]
    cards: list[Any] = []

    def load(repo_id: str, token: Any = None) -> Any:
        if not cards:
            raise EntryNotFoundError("no card")
        return huggingface_hub.ModelCard(cards[-1])

    monkeypatch.setattr(huggingface_hub.ModelCard, "load", load)
    model.add_model_tags("vision")
    for tags in (["vision", "own"], "own"):
        model.add_model_tags(tags)
        model.save_pretrained(folder / "pushed", push_to_hub=True, repo_id="other")
        assert calls[-1]["allow_patterns"] == ["config.json", "model*", "README.md"]
        cards.append((folder / "pushed" / "README.md").read_text() + ("" if cards else "By hand.\n"))
    assert model.model_tags == ["vision", "own"]
    assert type(model).model_tags is None
    card = huggingface_hub.ModelCard(cards[-1])
    assert (card.data.tags, card.data.library_name) == (["vision", "own"], "transformers")
    assert card.text.strip() == "By hand."


def test_from_config_does_not_change_the_config() -> None:
    config = ViTConfig(**SMALL)
    model = ViTModel.from_config(config, attn_implementation="eager", dtype=torch.bfloat16, add_pooling_layer=False)
    assert model.dtype is torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert config._attn_implementation is None
    assert model.pooler is None


def test_vitkit_load_opens_the_folder_as_the_same_model(folder: Path) -> None:
    """The transformers API and `models.vit` compute the same outputs."""
    compatible = ViTForImageClassification.from_pretrained(folder)
    ViTImageProcessor(size=16).save_pretrained(folder)
    own = load(folder).model
    with torch.no_grad():
        got = compatible(IMAGES, output_attentions=True)
        torch.testing.assert_close(got.logits, own(IMAGES), atol=1e-6, rtol=1e-6)
        embedded = own.embed(IMAGES).tokens
        torch.testing.assert_close(got.attentions[0], own.blocks[0].attention_weights(embedded), atol=1e-6, rtol=1e-6)
