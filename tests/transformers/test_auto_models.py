"""AutoConfig, AutoModel and their like: a closed table of model types, and checkpoints of other libraries."""

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
import torch
from family_cases import CASES, SMALL, own

import vitkit
from vitkit import models
from vitkit.checkpoints import Checkpoint, CheckpointError, convert, locate, save, save_checked
from vitkit.checkpoints.checkpoint import Origin
from vitkit.checkpoints.tensors import Tensors
from vitkit.data.processor import Processor
from vitkit.transformers.auto import FAMILIES

TASKS = {
    "AutoModel": "model",
    "AutoModelForImageClassification": "classification",
    "AutoModelForMaskedImageModeling": "masked",
    "AutoModelForPreTraining": "pretraining",
    "AutoModelForSemanticSegmentation": "segmentation",
    "AutoBackbone": "backbone",
}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small_config(model_type: str, name: str) -> Any:
    if (model_type, name) == ("beit", "AutoModelForSemanticSegmentation"):
        return vitkit.BeitConfig(**SMALL | {"num_hidden_layers": 4}, out_indices=[1, 2, 3, 4])
    for case in CASES:
        config = getattr(vitkit, case.config)(**case.settings)
        if config.model_type == model_type:
            return config
    return vitkit.ViTConfig(**SMALL)


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("name", TASKS)
def test_classes_are_those_of_transformers(
    hf: ModuleType, model_type: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, auto = small_config(model_type, name), getattr(vitkit, name)
    theirs = getattr(hf, type(config).__name__)(**{k: v for k, v in config.to_dict().items() if k != "model_type"})
    if not getattr(FAMILIES[model_type], TASKS[name]):
        for source in (config, theirs):
            with pytest.raises(
                ValueError, match=rf"Unrecognized configuration class .* for this kind of AutoModel: {name}"
            ):
                auto.from_config(source)
        return
    # transformers 5.23 chooses between several classes by this list only.
    theirs.architectures = []
    model = auto.from_config(config)
    assert type(model).__name__ == type(getattr(hf, name).from_config(theirs)).__name__
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    assert type(vitkit.AutoConfig.from_pretrained(tmp_path)) is type(config)
    assert type(vitkit.AutoConfig.for_model(model_type)) is type(config)
    monkeypatch.chdir(tmp_path.parent)
    loaded = auto.from_pretrained(tmp_path.name, config=config, output_loading_info=True)[0]
    assert loaded.config.name_or_path == tmp_path.name


def test_architectures_select_the_head(tmp_path: Path) -> None:
    for case in (case for case in CASES if case.kind.startswith("DeiTForImage")):
        own(case).save_pretrained(tmp_path / case.kind)
        assert type(vitkit.AutoModelForImageClassification.from_pretrained(tmp_path / case.kind)).__name__ == case.kind


def test_stages_of_backbones_are_options(tmp_path: Path) -> None:
    vitkit.Dinov2Model(vitkit.Dinov2Config(**SMALL)).save_pretrained(tmp_path)
    backbone = vitkit.AutoBackbone.from_pretrained(tmp_path, out_features=["stage1", "stage2"])
    assert [tuple(each.shape) for each in backbone(IMAGES).feature_maps] == [(2, 32, 4, 4)] * 2
    backbone = vitkit.AutoBackbone.from_pretrained(
        tmp_path,
        out_indices=[
            -1,
        ],
    )
    assert backbone.out_features == ["stage3"]


@pytest.mark.parametrize("to", ["timm", "vitkit", "huggingface"])
@pytest.mark.parametrize("family", ["vit", "deit", "beit", "resnet"])
def test_checkpoints_of_other_formats_are_opened(family: str, to: str, tmp_path: Path) -> None:
    config = models.family(family).TINY
    if family == "resnet":
        config = dataclasses.replace(config, stem_width=64, widths=(16, 16, 24, 32), depths=(1, 1, 2, 1))
    torch.manual_seed(0)
    network = models.build(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    labels = tuple(f"class {index}" for index in range(config.num_classes))
    processor = Processor.squash(config.image_size)
    checkpoint = Checkpoint(model=network, processor=processor, labels=labels, origin=Origin())
    save(checkpoint, tmp_path / "model", to=to)
    model = vitkit.AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    images = torch.randn(2, 3, *config.image_size)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, network(images), atol=1e-5, rtol=1e-5)
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.name_or_path == str(tmp_path / "model")
    assert vitkit.AutoConfig.from_pretrained(tmp_path / "model").num_labels == config.num_classes
    assert type(vitkit.AutoModel.from_pretrained(tmp_path / "model")) is type(model.base_model)
    assert vitkit.AutoImageProcessor.from_pretrained(tmp_path / "model") is not None


@pytest.mark.parametrize("to", ["timm", "vitkit"])
@pytest.mark.parametrize("family", ["vit", "deit", "beit", "resnet"])
def test_configs_are_read_without_weights(
    family: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = models.family(family).TINY
    if family == "resnet":
        config = dataclasses.replace(config, stem_width=64, widths=(16, 16, 24, 32), depths=(1, 1, 2, 1))
    network = models.build(config).to(torch.bfloat16).eval()
    labels = tuple(f"class {index}" for index in range(config.num_classes))
    processor = Processor.squash(config.image_size)
    checkpoint = Checkpoint(model=network, processor=processor, labels=labels, origin=Origin())
    save(checkpoint, tmp_path / "model", to=to)
    convert(tmp_path / "model", tmp_path / "converted", to="huggingface", dtype=None)
    expected = vitkit.AutoConfig.from_pretrained(tmp_path / "converted").to_dict()

    def read(name: str) -> torch.Tensor:
        raise AssertionError(f"{name} was read")

    opened = locate.open_weights
    monkeypatch.setattr(locate, "open_weights", lambda *given: Tensors(opened(*given).infos, read))
    found = vitkit.AutoConfig.from_pretrained(tmp_path / "model")
    assert found.to_dict() == expected
    assert found.dtype is torch.bfloat16
    assert found.name_or_path == str(tmp_path / "model")
    meta = dataclasses.replace(checkpoint, model=models.build(config, device="meta"))
    with pytest.raises(CheckpointError, match="the model is on the meta device and has no weights"):
        save(meta, tmp_path / "meta", to="vitkit")


def test_download_options_reach_checkpoints_of_other_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = models.family("vit").TINY
    network = models.build(config).eval()
    processor = Processor.squash(config.image_size)
    labels = tuple(map(str, range(config.num_classes)))
    save(Checkpoint(model=network, processor=processor, labels=labels, origin=Origin()), tmp_path / "model", to="timm")
    options = {"revision": "v1", "cache_dir": "here", "local_files_only": True, "token": "secret"}
    calls: list[dict[str, Any]] = []

    def one_file(repo_id: str, filename: str, **given: Any) -> str:
        if not (tmp_path / "model" / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        return str(tmp_path / "model" / filename)

    def snapshot(name: str, **given: Any) -> str:
        calls.append({"name": name, **{key: given[key] for key in options}})
        return str(tmp_path / "model")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one_file)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for auto in (vitkit.AutoConfig, vitkit.AutoModelForImageClassification, vitkit.AutoImageProcessor):
        calls.clear()
        auto.from_pretrained("someone/vit", **options)
        assert calls == [{"name": "someone/vit", **options}]


def test_a_file_of_google_is_opened(tmp_path: Path) -> None:
    config = dataclasses.replace(models.family("vit").TINY, activation="gelu_tanh", init="truncated")
    network = models.build(config).eval()
    labels = tuple(map(str, range(5)))
    processor = Processor.squash((32, 32))
    save_checked(
        Checkpoint(model=network, processor=processor, labels=labels, origin=Origin()),
        tmp_path / "a.npz",
        to="npz",
        lossy=True,
    )
    model = vitkit.AutoModelForImageClassification.from_pretrained(tmp_path / "a.npz")
    assert type(model) is vitkit.ViTForImageClassification
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES).logits, network(IMAGES), atol=1e-5, rtol=1e-5)


def test_unknown_and_hostile_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="neither a local folder nor a valid id"):
        vitkit.AutoModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"Unrecognized model in .*Known model types: beit, deit"):
        vitkit.AutoModel.from_pretrained(tmp_path)
    for model_type in ("swin", "os", "vitkit.transformers.hub", "../vit", ["vit"], {"vit": 1}, "vit\x1b[31m", 3):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        for auto in (vitkit.AutoConfig, vitkit.AutoModel, vitkit.AutoBackbone):
            with pytest.raises(ValueError, match=r"Unrecognized model in") as caught:
                auto.from_pretrained(tmp_path)
            assert str(caught.value).isprintable()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deit", "architectures": ["os.system"]}))
    with pytest.raises(OSError, match=r"has none of model\.safetensors"):
        vitkit.AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Unrecognized model identifier: swin\. Should contain one of beit"):
        vitkit.AutoConfig.for_model("swin")


@pytest.mark.parametrize("name", ["AutoConfig", *TASKS])
def test_auto_classes_cannot_be_instantiated(hf: ModuleType, name: str) -> None:
    for library in (hf, vitkit):
        with pytest.raises(OSError, match=rf"{name} is designed to be instantiated using the"):
            getattr(library, name)()
