"""Configs that describe a much larger model than the file next to them, and files left by another save."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vitkit

HUGE: list[dict[str, object]] = [
    {"hidden_size": 1_000_000, "num_attention_heads": 10},
    {"hidden_size": 20_000, "num_attention_heads": 10},
    {"num_hidden_layers": 3000},
    {"image_size": 10**6, "patch_size": 1, "hidden_size": 8, "num_attention_heads": 1},
    {"intermediate_size": 10**9},
]


@pytest.mark.parametrize("settings", HUGE, ids=str)
def test_a_config_much_larger_than_its_file_is_rejected(settings: dict[str, object], tmp_path: Path) -> None:
    save_file({"vit.layernorm.weight": torch.zeros(768)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **settings}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ValueError, match=r"parameters that the file does not have, such as|has 1 tensors, less than one"
    ):
        vitkit.ViTForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


def test_missing_heads_and_layers_are_initialized(tmp_path: Path) -> None:
    config = vitkit.ViTConfig(32, 2, 4, 48, image_size=32, patch_size=8)
    vitkit.ViTModel(config).save_pretrained(tmp_path)
    model = vitkit.ViTForImageClassification.from_pretrained(tmp_path, num_labels=20_000, num_hidden_layers=12)
    assert model.classifier.weight.shape == (20_000, 32)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_weights_of_another_save_are_not_left(tmp_path: Path) -> None:
    config = vitkit.ViTConfig(32, 2, 4, 48, image_size=32, patch_size=8)
    (tmp_path / "flax_model.msgpack").write_bytes(b"old")
    first, second = vitkit.ViTForImageClassification(config), vitkit.ViTForImageClassification(config)
    for model, options in ((first, {}), (second, {"max_shard_size": "20KB"}), (first, {})):
        model.save_pretrained(tmp_path, **options)
        again = vitkit.ViTForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(again.classifier.weight, model.classifier.weight)
        assert not (tmp_path / "flax_model.msgpack").exists(), "the Flax classes would read it first"
