"""Conversion to and from transformers' ViT, with tensor names of all versions."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from tiny_vits import TINY, checkpoint, fill, images

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError
from vitkit.models.vit import Config

SIZES: list[dict[str, Any]] = [
    {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
    {"image_size": (48, 32), "patch_size": 16, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 80},
    {
        "image_size": 24,
        "patch_size": 8,
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-6,
    },
    {
        "image_size": 28,
        "patch_size": 14,
        "hidden_size": 32,
        "num_attention_heads": 1,
        "qkv_bias": False,
        "hidden_act": "gelu_new",
    },
    {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_channels": 1,
        "hidden_act": "relu",
    },
]


@pytest.fixture(scope="module")
def library() -> Any:
    transformers = oracle("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _theirs(library: Any, fields: dict[str, Any], kind: str = "ViTForImageClassification", **more: Any) -> Any:
    config = library.ViTConfig(**{"num_hidden_layers": 2, "intermediate_size": 64, "num_labels": 5, **fields, **more})
    return fill(getattr(library, kind)(config))


def _size(fields: dict[str, Any]) -> tuple[int, int]:
    size = fields["image_size"]
    return (size, size) if isinstance(size, int) else size


@pytest.mark.parametrize("fields", SIZES)
@pytest.mark.parametrize("generation", ["v4", "v5", "sharded", "bin", "sharded bin"])
def test_transformers_to_vitkit(library: Any, fields: dict[str, Any], generation: str, tmp_path: Path) -> None:
    theirs = _theirs(library, fields)
    if generation in ("v4", "v5"):
        theirs.save_pretrained(tmp_path, save_original_format=generation == "v4")
    else:
        theirs.save_pretrained(tmp_path, max_shard_size="20KB" if "sharded" in generation else "1GB")
    if "bin" in generation:
        _pickle_the_weights(tmp_path)
    if "sharded" in generation:
        assert len(list(tmp_path.glob("*-of-*"))) > 1
    loaded = checkpoints.load(tmp_path)
    assert loaded.origin.format == "huggingface"
    batch = images(_size(fields), fields.get("num_channels", 3))
    with torch.no_grad():
        assert (loaded.model(batch) - theirs(batch).logits).abs().max() < 1e-5
        ours = loaded.model.features(batch).tokens
        assert (ours - theirs.vit(batch).last_hidden_state).abs().max() < 1e-5
    assert loaded.labels == tuple(f"LABEL_{index}" for index in range(5))


def _pickle_the_weights(folder: Path) -> None:
    from safetensors.torch import load_file

    for path in folder.glob("*.safetensors"):
        torch.save(load_file(path), path.with_name(path.name.replace("model", "pytorch_model", 1)).with_suffix(".bin"))
        path.unlink()
    for path in folder.glob("*.safetensors.index.json"):
        text = path.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        path.unlink()


@pytest.mark.parametrize("fields", SIZES)
def test_vitkit_to_transformers(library: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    """A converted folder loads in transformers without missing or unexpected keys, with the same logits."""
    theirs = _theirs(library, fields)
    theirs.save_pretrained(tmp_path / "theirs")
    checkpoints.convert(tmp_path / "theirs", tmp_path / "ours", "huggingface")
    opened, report = library.AutoModelForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    batch = images(_size(fields), fields.get("num_channels", 3))
    with torch.no_grad():
        # gelu_new and gelu_pytorch_tanh, which vitkit writes, differ in rounding only.
        limit = 1e-6 if fields.get("hidden_act") == "gelu_new" else 0.0
        assert (opened(batch).logits - theirs(batch).logits).abs().max() <= limit
    before, after = theirs.state_dict(), opened.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert opened.config.id2label == theirs.config.id2label


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (24, 64), (56, 56)])
def test_other_sizes_as_interpolate_pos_encoding(library: Any, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = _theirs(library, SIZES[0])
    theirs.save_pretrained(tmp_path)
    ours = checkpoints.load(tmp_path).model
    with torch.no_grad():
        expected = theirs(images(size), interpolate_pos_encoding=True).logits
        assert (ours(images(size)) - expected).abs().max() < 1e-5


def test_image_processor_loads_in_transformers(library: Any, tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "x", to="huggingface")
    processor = library.AutoImageProcessor.from_pretrained(tmp_path / "x")
    assert (processor.size["height"], processor.size["width"]) == (32, 32)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForMaskedImageModeling", "ViTMAEForPreTraining", "ViTMSNModel"])
def test_headless_classes(library: Any, kind: str, tmp_path: Path) -> None:
    """Pooler, mask token and decoder are ignored, with a note in the origin."""
    if kind == "ViTMAEForPreTraining":
        config = library.ViTMAEConfig(
            **SIZES[0],
            num_hidden_layers=2,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
        )
        theirs = fill(library.ViTMAEForPreTraining(config))
    elif kind == "ViTMSNModel":
        theirs = fill(library.ViTMSNModel(library.ViTMSNConfig(**SIZES[0], num_hidden_layers=2)))
    else:
        theirs = _theirs(library, SIZES[0], kind)
    theirs.save_pretrained(tmp_path)
    loaded = checkpoints.load(tmp_path)
    assert loaded.model.config.num_classes == 0
    assert loaded.labels == ()
    assert any("ignored" in note for note in loaded.origin.notes) or kind == "ViTMSNModel"
    if kind != "ViTMAEForPreTraining":
        base = theirs if kind != "ViTForMaskedImageModeling" else theirs.vit
        with torch.no_grad():
            expected = base(images((32, 32))).last_hidden_state
            assert (loaded.model.features(images((32, 32))).tokens - expected).abs().max() < 1e-5
    checkpoints.save(loaded, tmp_path / "again", to="huggingface")
    _, report = library.ViTModel.from_pretrained(tmp_path / "again", add_pooling_layer=False, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_bare_state_dicts_with_both_names(library: Any, tmp_path: Path) -> None:
    theirs = _theirs(library, SIZES[0])
    torch.save(theirs.state_dict(), tmp_path / "v5.pth")
    torch.save({f"module.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "wrapped.pth")
    for name in ("v5.pth", "wrapped.pth"):
        with torch.no_grad():
            ours = checkpoints.load(tmp_path / name, config={"num_heads": 2}).model
            assert (ours(images((32, 32))) - theirs(images((32, 32))).logits).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "message"), [("Data2VecVision", "model_type is 'data2vec-vision'"), ("IJepa", "model_type is 'ijepa'")]
)
def test_unsupported_families_are_named(library: Any, kind: str, message: str, tmp_path: Path) -> None:
    config = getattr(library, f"{kind}Config")(
        image_size=32, patch_size=8, hidden_size=32, num_attention_heads=2, num_hidden_layers=1, intermediate_size=64
    )
    getattr(library, f"{kind}Model")(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_vitkit_fields_survive_saving_in_transformers(library: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, position_resize="bilinear_corners", stochastic_depth=0.2)
    made = checkpoint(config)
    checkpoints.save(made, tmp_path / "ours", to="huggingface")
    library.AutoModelForImageClassification.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    loaded = checkpoints.load(tmp_path / "theirs")
    assert isinstance(loaded.model.config, Config)
    assert loaded.model.config == config
    assert loaded.labels == made.labels
