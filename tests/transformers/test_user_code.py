"""Programs of users that load one family as another, and change modules by the names of transformers 5."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitkit.transformers
from vitkit import BitImageProcessor, DeiTConfig, DeiTModel, ResNetConfig, ResNetModel, ViTConfig

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MLP = SMALL | {"intermediate_size": 48}
DECODER = {
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 40,
}
MASKED = MLP | {"vocab_size": 20, "use_shared_relative_position_bias": True, "use_mean_pooling": False}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(hf: Any, kind: str, config: str, settings: dict[str, Any], folder: Path) -> Path:
    """Saves a model of transformers with random values in all parameters."""
    torch.manual_seed(0)
    model = getattr(hf, kind)(getattr(hf, config)(**settings))
    for parameter in model.parameters():
        nn.init.normal_(parameter.data, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "config", "settings", "loaded"),
    [
        ("ViTMAEForPreTraining", "ViTMAEConfig", MLP | DECODER, "ViTForImageClassification"),
        ("ViTMSNModel", "ViTMSNConfig", MLP, "ViTForImageClassification"),
        ("BeitForMaskedImageModeling", "BeitConfig", MASKED, "BeitModel"),
        ("BeitForMaskedImageModeling", "BeitConfig", MASKED, "BeitForImageClassification"),
    ],
)
def test_pretrained_models_are_fine_tuned_as_others(
    hf: ModuleType,
    kind: str,
    config: str,
    settings: dict[str, Any],
    loaded: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = saved(hf, kind, config, settings, tmp_path)
    options = {} if loaded.endswith("Model") else {"num_labels": 3}
    theirs = getattr(hf, loaded).from_pretrained(folder, **options)
    with caplog.at_level(logging.WARNING, logger="vitkit.transformers"):
        ours = getattr(vitkit.transformers, loaded).from_pretrained(folder, **options)
    assert ("You are using a model of type" in caplog.text) == (config != "BeitConfig")
    for model in (ours, theirs):
        if options:
            nn.init.constant_(model.classifier.weight, 0.1)
            model.classifier.weight.data[0] = 0.3
    torch.testing.assert_close(ours(IMAGES)[0], theirs(IMAGES)[0], atol=1e-5, rtol=1e-5)


def test_configs_of_own_types_read_files_of_the_family(tmp_path: Path) -> None:
    class OwnConfig(ViTConfig):
        model_type = "own-vit"

    ViTConfig(**MLP, num_labels=3).save_pretrained(tmp_path)
    config = OwnConfig.from_pretrained(tmp_path, extra=5)
    assert (config.model_type, config.hidden_size, config.num_labels) == ("own-vit", 32, 3)


def test_models_without_checkpointing_refuse_it(hf: ModuleType) -> None:
    settings: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16], "depths": [1]}
    for model in (hf.ResNetModel(hf.ResNetConfig(**settings)), ResNetModel(ResNetConfig(**settings))):
        with pytest.raises(ValueError, match="ResNetModel does not support activation checkpointing"):
            model.activation_checkpointing_enable()


@pytest.mark.parametrize("kind", ["Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel"])
def test_models_of_any_size_accept_the_option_of_other_models(kind: str) -> None:
    model_class: Any = getattr(vitkit.transformers, kind)
    model = model_class(model_class.config_class(**SMALL)).eval()
    larger = torch.randn(1, 3, 48, 40)
    assert torch.equal(model(larger, interpolate_pos_encoding=True)[0], model(larger)[0])
    with pytest.raises(TypeError, match="unexpected keyword argument 'interpolate'"):
        model(larger, interpolate=True)


class Twice(nn.Module):
    """Replaces a module from tokens to tokens."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return 2 * hidden_states


def test_gradients_have_the_strides_of_the_parameters() -> None:
    model = DeiTModel(DeiTConfig(**MLP))
    model(IMAGES)[0].sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is not None and p.grad.stride() != p.stride()]


@pytest.mark.parametrize("kind", ["DeiT", "Beit", "ViTMSN", "ViTMAE", "Dinov2"])
def test_parts_of_layers_are_changed_by_their_newer_names(hf: ModuleType, kind: str, tmp_path: Path) -> None:
    folder = saved(hf, f"{kind}Model", f"{kind}Config", SMALL if kind == "Dinov2" else MLP, tmp_path)
    results: list[list[Tensor]] = []
    for library in (hf, vitkit.transformers):
        model = getattr(library, f"{kind}Model").from_pretrained(folder)
        layers, found = (model.encoder.layer if kind == "Dinov2" else model.layers), []
        noise = {"noise": torch.arange(16.0).expand(2, -1)} if kind == "ViTMAE" else {}
        hook = layers[0].mlp.register_forward_hook(lambda _, __, output, found=found: found.append(output))
        outputs = [model(IMAGES, **noise)[0]]
        hook.remove()
        layers[0].mlp.activation_fn = nn.ReLU()
        outputs.append(model(IMAGES, **noise)[0])
        layers[0].mlp.fc2 = nn.Sequential(layers[0].mlp.fc2, nn.Tanh())
        outputs.append(model(IMAGES, **noise)[0])
        layers[1].mlp = Twice()
        outputs.append(model(IMAGES, **noise)[0])
        if kind == "Dinov2":
            layers[0].attention.o_proj = Twice()
        else:
            layers[0].dropout = Twice()
            model.layers = layers[:1]
        outputs.append(model(IMAGES, **noise)[0])
        assert len(found) == 1
        results.append(found + outputs)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_settings_in_a_folder_are_read_as_a_dict(tmp_path: Path) -> None:
    BitImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path)
    settings, rest = BitImageProcessor.get_image_processor_dict(tmp_path, local_files_only=True, resample=2)
    assert (settings["size"], rest) == ({"shortest_edge": 64}, {"resample": 2})


def test_bit_processors_without_resizing_and_cropping() -> None:
    processor = BitImageProcessor()
    pixels = torch.zeros(3, 50, 70, dtype=torch.uint8)
    batch = processor(pixels, do_resize=False, do_center_crop=False, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 50, 70)


@pytest.mark.parametrize(
    "kind", ["DeiTModel", "BeitModel", "ViTMSNModel", "Dinov2WithRegistersModel", "DINOv3ViTModel"]
)
def test_parameters_are_replaced_by_functional_calls(kind: str) -> None:
    model_class: Any = getattr(vitkit.transformers, kind)
    model = model_class(model_class.config_class(**SMALL)).eval()
    changed = {name: 1.1 * parameter.detach() for name, parameter in model.named_parameters()}
    output = torch.func.functional_call(model, changed, (IMAGES,))[0]
    model.load_state_dict(changed, strict=False)
    torch.testing.assert_close(output, model(IMAGES)[0])
