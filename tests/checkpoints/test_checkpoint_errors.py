"""Invalid checkpoints raise one-line errors that name the problem."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vits import GOOGLE, TINY, checkpoint

from vitkit import checkpoints, models
from vitkit.checkpoints import CheckpointError
from vitkit.data.labels import default_labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid Hugging Face folder."""
    checkpoints.save(checkpoint(TINY), tmp_path / "x", to="huggingface")
    return tmp_path / "x"


def _load_error(source: Any, message: str, **options: Any) -> str:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.load(source, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _config(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "config.json").read_text())
    data = {key: value for key, value in (data | changes).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(data))


def test_missing_tensors_are_named(folder: Path) -> None:
    _weights(folder, lambda tensors: [tensors.pop("vit.layernorm.bias"), tensors.pop("vit.embeddings.cls_token")])
    message = _load_error(folder, "2 tensors are missing: ")
    assert "embeddings.cls_token" in message
    assert "layernorm.bias" in message


def test_missing_part_of_a_fused_matrix_is_named(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.pop("vit.encoder.layer.1.attention.attention.key.bias"))
    _load_error(folder, r"1 tensor is missing: encoder\.layer\.1\.attention\.attention\.key\.bias")


def test_unknown_tensors_are_named(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update({"vit.surprise": torch.zeros(2), "adapter.x": torch.zeros(1)}))
    message = _load_error(folder, "2 tensors are unknown")
    assert "surprise" in message
    assert "adapter.x" in message


def test_long_lists_of_names_are_truncated(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update({f"extra.{index}": torch.zeros(1) for index in range(100)}))
    _load_error(folder, "100 tensors are unknown: .* and 92 more")


def test_wrong_shape_error_has_both_shapes(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update({"vit.layernorm.weight": torch.ones(63)}))
    _load_error(folder, r"layernorm\.weight has shape \(63,\), expected \(64,\)")


def test_wrong_kernel_shape_in_npz(tmp_path: Path) -> None:
    checkpoints.save_checked(checkpoint(GOOGLE), tmp_path / "a.npz", to="npz", lossy=True)
    with np.load(tmp_path / "a.npz") as arrays:
        changed = dict(arrays)
    name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/out/kernel"
    changed[name] = np.zeros((2, 32, 64), np.float32)
    np.savez(tmp_path / "b.npz", **changed)
    _load_error(tmp_path / "b.npz", rf"{name} has shape \(2, 32, 64\), expected \(4, 16, 64\)")


def test_integer_weights_are_rejected(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update({"vit.layernorm.weight": torch.ones(64, dtype=torch.int8)}))
    _load_error(folder, r"not floating-point: layernorm\.weight has dtype torch\.int8")


def test_missing_block(folder: Path) -> None:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layer.0." in name]:
            tensors[name.replace(".layer.0.", ".layer.2.")] = tensors.pop(name)

    _weights(folder, remove)
    _load_error(folder, "blocks are missing: block 0")


def test_two_names_of_the_same_tensor(folder: Path) -> None:
    _weights(folder, lambda tensors: tensors.update({"layernorm.bias": tensors["vit.layernorm.bias"].clone()}))
    _load_error(folder, "both map to the same tensor")


def test_missing_head(folder: Path) -> None:
    _weights(folder, lambda tensors: [tensors.pop("classifier.weight"), tensors.pop("classifier.bias")])
    _load_error(folder, "num_classes is 5, but the tensors have 0")


def test_missing_position_table(folder: Path, tmp_path: Path) -> None:
    _weights(folder, lambda tensors: tensors.pop("vit.embeddings.position_embeddings"))
    _load_error(folder, "1 tensor is missing: embeddings.position_embeddings")
    state = checkpoint(TINY).model.state_dict()
    del state["pos_embed"]
    torch.save(state, tmp_path / "x.pth")
    _load_error(tmp_path / "x.pth", "1 tensor is missing: pos_embed")


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"id2label": {"0": "a", "1": "b"}}, "num_classes is 2, but the tensors have 5"),
    (
        {"id2label": {"1": "a", "2": "b", "3": "c", "4": "d", "5": "e"}},
        "id2label has 5 labels, but none for the class 0",
    ),
    ({"id2label": ["a"]}, "'id2label' is"),
    ({"hidden_size": 128}, "width is 128, but the tensors have 64"),
    ({"num_hidden_layers": 10**9}, "depth is 1000000000, but the tensors have 2"),
    ({"num_attention_heads": 5}, "64 is not a multiple of the number of heads 5"),
    ({"num_attention_heads": 0}, "num_heads"),
    ({"num_attention_heads": "4"}, "'num_attention_heads' is '4'; expected an integer"),
    ({"image_size": 64}, "image_size 64x64 has 8x8 patches, but the position embedding has 17 rows"),
    ({"image_size": [32]}, "image_size"),
    ({"image_size": 10**12}, "image_size"),
    ({"patch_size": 16}, r"patch_size is \(16, 16\), but the tensors have \(8, 8\)"),
    ({"hidden_act": "gelu_neW"}, "hidden_act 'gelu_neW'; did you mean 'gelu_new'"),
    ({"layer_norm_eps": "tiny"}, "layer_norm_eps"),
    ({"model_type": "resnet"}, "model_type is 'resnet'"),
    ({"vitkit": {"position_resize": "magic"}}, "position_resize"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_config_contradicts_tensors(folder: Path, changes: dict[str, Any], message: str) -> None:
    _config(folder, **changes)
    _load_error(folder, message)


def test_keys_that_would_load_code_are_ignored(folder: Path) -> None:
    """Hub files may have keys that load remote code in transformers."""
    code = {"auto_map": {"AutoModel": "evil--repo.Model"}, "trust_remote_code": True, "_attn_implementation": "a/b:c"}
    before = checkpoints.load(folder).model.state_dict()
    _config(folder, **code, custom_pipelines={"x": {"impl": "evil.Pipeline"}})
    after = checkpoints.load(folder).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_invalid_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": "big", "image_std": [0, 0, 0]}))
    _load_error(folder, "preprocessor_config.json: ")


def test_num_heads_cannot_be_inferred(tmp_path: Path) -> None:
    import dataclasses

    made = checkpoint(dataclasses.replace(TINY, width=48, num_heads=3))
    torch.save(made.model.state_dict(), tmp_path / "x.pth")
    _load_error(tmp_path / "x.pth", r"from width 48; set config=\{'num_heads': \.\.\.\} \(--set num_heads=")
    assert checkpoints.load(tmp_path / "x.pth", config={"num_heads": "3"}).model.config.num_heads == 3


def test_position_table_is_not_square(tmp_path: Path) -> None:
    import dataclasses

    made = checkpoint(dataclasses.replace(TINY, image_size=(24, 48)))
    torch.save(made.model.state_dict(), tmp_path / "x.pth")
    _load_error(tmp_path / "x.pth", r"19 rows is not a square grid; set image_size=.* \(--set image_size='\[")
    assert checkpoints.load(tmp_path / "x.pth", config={"image_size": "[24, 48]"}).model.config.image_size == (24, 48)
    loaded = checkpoints.load(tmp_path / "x.pth", image_size=(24, 48))
    assert loaded.model.config.image_size == (24, 48)


def test_overrides_are_validated(folder: Path) -> None:
    _load_error(folder, "unknown key 'num_head' in config; did you mean 'num_heads'", config={"num_head": 2})
    _load_error(folder, "'pool' is 'best'", config={"pool": "best"})
    _load_error(folder, "depth", config={"depth": 0})


def test_unknown_format(folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown format 'hugginface'; did you mean 'huggingface'"):
        checkpoints.load(folder, format="hugginface")
    with pytest.raises(ValueError, match="unknown format 'onnx'"):
        checkpoints.save(checkpoint(TINY), folder.parent / "y", to="onnx")
    _load_error(folder, "not in the format 'timm'", format="timm")


def test_invalid_vitkit_layout(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "x", to="vitkit")
    data = json.loads((tmp_path / "x" / "config.json").read_text())
    for change, message in [
        (
            {"model": data["model"] | {"depth": 10**8}},
            "depth is 100000000, which is too large for the tensors in the file",
        ),
        ({"model": data["model"] | {"width": 2**40, "num_heads": 1}}, "width is 1099511627776"),
        ({"model": data["model"] | {"num_classes": 10**15}}, "of the wrong shape|cannot build a model|classes"),
        (
            {"model": data["model"] | {"position": "sincos2d", "image_size": [10**6, 10**6]}},
            "patches; a sine-cosine position embedding supports at most 65,536",
        ),
        ({"model": data["model"] | {"family": "os"}}, "unknown model family 'os'"),
        ({"model": data["model"] | {"unknown_field": 1}}, "unknown key 'unknown_field'"),
        ({"vitkit": 99}, "version 99"),
        ({"labels": "abc"}, "labels is not a list"),
        ({"labels": ["a"]}, "5 classes, but the config has 1 labels"),
    ]:
        (tmp_path / "x" / "config.json").write_text(json.dumps(data | change))
        _load_error(tmp_path / "x", message)


@pytest.mark.parametrize("field", ["num_registers", "pre_logits", "channels", "width", "depth", "mlp_width"])
def test_vitkit_fields_are_bounded_by_the_tensors(field: str, tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "x", to="vitkit")
    data = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps(data | {"model": data["model"] | {field: 10**20}}))
    _load_error(tmp_path / "x", f"{field} is 100000000000000000000, which is too large for the tensors in the file")


@pytest.mark.parametrize("family", ["bit", "resnet", "hybrid", "dinov3", "beit", "deit"])
def test_sizes_of_other_families_are_bounded(family: str, tmp_path: Path) -> None:
    config = import_module(f"vitkit.models.{family}").TINY
    made = checkpoint(TINY, model=models.build(config), labels=default_labels(config.num_classes))
    checkpoints.save(made, tmp_path / "x", to="vitkit")
    data = json.loads((tmp_path / "x" / "config.json").read_text())
    for name, value in {
        "depths": [30_000] * len(getattr(config, "depths", ())),
        "widths": [10**9, 24],
        "image_size": [10_000, 10_000],
        "num_registers": 10**20,
    }.items():
        if name in data["model"]:
            (tmp_path / "x" / "config.json").write_text(json.dumps(data | {"model": data["model"] | {name: value}}))
            _load_error(tmp_path / "x", "too large|more than|the limit is|of the wrong shape")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"do_center_crop": True, "crop_size": {"height": 7000, "width": 7000}},
            "crop_size to 7000x7000 pixels; the limit is 16,777,216 pixels in total",
        ),
        ({"do_center_crop": True, "crop_size": {"height": 20_000, "width": 20_000}}, "crop_size to 20000x20000 pixels"),
        ({"image_std": [1e-300] * 3}, "std .* is out of range; absolute values .* of std at least 1e-06"),
        ({"image_mean": [1e300] * 3}, "mean .* is out of range; absolute values must be at most 1,000,000"),
        ({f"k{index}": 0 for index in range(400_000)}, r"400,\d+ keys; the limit is 100,000"),
    ],
    ids=["crop", "large crop", "std", "mean", "keys"],
)
def test_preprocessing_is_bounded(folder: Path, changes: dict[str, Any], message: str) -> None:
    data = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(data | changes))
    _load_error(folder, message)


def test_model_type_does_not_match_the_tensors(folder: Path) -> None:
    save_file({"unknown.weight": torch.zeros(2)}, folder / "model.safetensors")
    _load_error(folder, "model_type is 'vit', but the tensor names do not match that layout: unknown.weight")


def test_existing_targets(folder: Path, tmp_path: Path) -> None:
    made = checkpoint(TINY)
    with pytest.raises(CheckpointError, match=r"exists and is not empty; pass overwrite=True \(--overwrite\)"):
        checkpoints.save(made, folder)
    checkpoints.save(made, folder, overwrite=True, to="vitkit")
    assert checkpoints.load(folder).origin.format == "vitkit"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="cannot be replaced: it is not empty and is not a checkpoint folder"):
        checkpoints.save(made, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    checkpoints.save(made, tmp_path / "empty")
    (tmp_path / "file.pth").write_text("")
    with pytest.raises(CheckpointError, match=r"file\.pth exists"):
        checkpoints.save_checked(made, tmp_path / "file.pth", to="torchvision", lossy=True)
    with pytest.raises(CheckpointError, match=r"must end in \.pth, not y"):
        checkpoints.save_checked(made, tmp_path / "y", to="torchvision", lossy=True)


def test_failed_write_leaves_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full while weights are written, the old checkpoint is complete and no other file is left."""
    import safetensors.torch

    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*arguments: Any, **options: Any) -> None:
        target = arguments[1]
        target.write(b"half") if hasattr(target, "write") else Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(checkpoint(TINY), folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    monkeypatch.setattr(torch, "save", lambda state, path: full(state, path))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_checked(checkpoint(TINY), folder.parent / "z.pth", to="torchvision", lossy=True)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_checkpoint_can_replace_its_own_source(folder: Path) -> None:
    loaded = checkpoints.load(folder)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    checkpoints.save(loaded, folder, overwrite=True)
    again = checkpoints.load(folder).model.state_dict()
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())
