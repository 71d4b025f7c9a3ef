"""Contract of every format: supported models round-trip bit for bit, unsupported ones raise an error."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_vits import GOOGLE, SUPPORTED, TINY, checkpoint, images

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError, LossyWarning
from vitkit.checkpoints.formats import all_formats, formats_for
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.plugins.contracts import Check, title
from vitkit.plugins.contracts import format as contract

CASES = [(name, index) for name in SUPPORTED for index in range(len(SUPPORTED[name]))]


def test_every_format_is_tested() -> None:
    assert {each.name for each in all_formats() if each.family in (None, "vit") and each.targets} <= set(SUPPORTED)
    assert checkpoints.list_formats() == sorted({target for each in all_formats() for target in each.targets})


def _target(folder: Path, name: str) -> Path:
    return folder / f"written{formats_for(name)[0].suffix}"


@pytest.mark.parametrize("check", contract.CHECKS, ids=title)
@pytest.mark.parametrize(("name", "index"), CASES)
def test_every_format_keeps_the_contract(name: str, index: int, check: Check) -> None:
    torch.manual_seed(0)
    check(contract.Subject(formats_for(name)[0].name, SUPPORTED[name][index]))


@pytest.mark.parametrize("name", SUPPORTED)
def test_saving_leaves_nothing_but_the_target(name: str, tmp_path: Path) -> None:
    target = _target(tmp_path, name)
    single_file = formats_for(name)[0].suffix != ""
    checkpoints.save_checked(checkpoint(SUPPORTED[name][0]), target, to=name, lossy=single_file)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_tables_reject_unknown_and_incomplete_tensors() -> None:
    table = formats_for("huggingface")[0].table
    saved = table.saved(checkpoint(TINY).model.state_dict(), TINY.num_heads)
    del saved["encoder.layer.0.attention.attention.key.bias"]
    with pytest.raises(CheckpointError, match=r"converting the tensor .*query\.bias also needs .*key\.bias"):
        table.loaded(saved)
    with pytest.raises(CheckpointError, match="no tensor named no_such_name"):
        table.loaded({"no_such_name": torch.zeros(1)})


@pytest.mark.parametrize(("name", "index"), CASES)
def test_vitkit_layout_stores_what_any_format_stores(name: str, index: int, tmp_path: Path) -> None:
    made = checkpoint(SUPPORTED[name][index])
    checkpoints.save(made, tmp_path / "ours", to="vitkit")
    loaded = checkpoints.load(tmp_path / "ours")
    assert loaded.model.config == made.model.config
    assert loaded.processor == made.processor
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), made.model.parameters(), strict=True))


def test_default_format_is_huggingface_if_supported_else_vitkit(tmp_path: Path) -> None:
    assert checkpoints.save(checkpoint(TINY), tmp_path / "a") == "huggingface"
    assert checkpoints.save(checkpoint(SUPPORTED["big_vision"][1]), tmp_path / "b") == "vitkit"
    assert (
        checkpoints.save_checked(
            checkpoint(SUPPORTED["big_vision"][1]), tmp_path / "b.npz", to="npz", lossy=True
        ).format
        == "big_vision"
    )
    assert checkpoints.save_checked(checkpoint(GOOGLE), tmp_path / "c.npz", to="npz", lossy=True).format == "npz"


UNSUPPORTED = [
    (
        "huggingface",
        {"class_token": False, "pool": "gap"},
        "transformers' ViT cannot store class_token=False",
    ),
    ("huggingface", {"num_registers": 2}, "num_registers=2"),
    ("huggingface", {"layer_scale": 0.1}, "layer_scale=0.1"),
    ("huggingface", {"pre_logits": 8}, "pre_logits=8"),
    ("huggingface", {"position": "sincos2d"}, "position='sincos2d'"),
    ("huggingface", {"position_tokens": "patches"}, "position for the class token"),
    ("huggingface", {"pool": "gap"}, "pool='gap'"),
    ("timm", {"norm_eps": 1e-12}, "norm_eps"),
    ("timm", {"pre_logits": 8}, "pre_logits=8"),
    ("timm", {"position": "sincos2d"}, "position='sincos2d'"),
    ("timm", {"num_registers": 2}, "registers"),
    ("npz", {}, r"activation='gelu'.*config=\{'activation': 'gelu_tanh'\}"),
    ("npz", {"activation": "gelu_tanh", "pool": "gap"}, "pool='gap'"),
    ("npz", {"activation": "gelu_tanh", "qkv_bias": False}, "qkv_bias"),
    ("npz", {"activation": "gelu_tanh", "pool": "none"}, "pool='none'"),
    ("big_vision", {"activation": "gelu_tanh"}, "no position embedding for the class token"),
    ("big_vision", {"activation": "gelu_tanh", "position": "none"}, "position='none'"),
    ("torchvision", {"image_size": (32, 48)}, "square"),
    ("torchvision", {"channels": 1}, "3 channels"),
    ("torchvision", {"activation": "gelu_tanh"}, "activation"),
    ("torchvision", {"norm": "pooled"}, "norm='pooled'"),
]


@pytest.mark.parametrize(("name", "changes", "message"), UNSUPPORTED)
def test_unsupported_config_raises_one_line_error(name: str, changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoints.save(checkpoint(dataclasses.replace(TINY, **changes)), _target(tmp_path, name), to=name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_new_config_field_is_never_dropped() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(type(TINY)):
        new_field: int = 0

    for each in all_formats():
        if each.family == "vit" and each.targets:  # others are only read
            config = SUPPORTED[each.name][0]
            fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
            assert each.unsupported_reason(Newer(**fields)) is None
            assert "new_field" in (each.unsupported_reason(Newer(**(fields | {"new_field": 1}))) or ""), each.name


def test_accepting_an_implied_value_allows_conversion(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "hf", to="huggingface")
    with pytest.raises(CheckpointError, match="accept the difference"):
        checkpoints.convert(tmp_path / "hf", tmp_path / "out.npz", "npz")
    with pytest.warns(LossyWarning):
        checkpoints.convert(
            tmp_path / "hf", tmp_path / "out.npz", "npz", config={"activation": "gelu_tanh"}, lossy=True
        )
    assert checkpoints.load(tmp_path / "out.npz").origin.format == "npz"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_float32_or_that_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    made = checkpoint(TINY)
    made.model.to(dtype)
    checkpoints.save(made, tmp_path / "a")
    assert next(checkpoints.load(tmp_path / "a").model.parameters()).dtype == torch.float32
    loaded = checkpoints.load(tmp_path / "a", dtype=None)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), made.model.parameters(), strict=True))


def test_bfloat16_npz_is_read_from_void_arrays(tmp_path: Path) -> None:
    made = checkpoint(GOOGLE)
    checkpoints.save_checked(made, tmp_path / "a.npz", to="npz", lossy=True)
    with np.load(tmp_path / "a.npz") as arrays:
        halves = {name: (arrays[name].view(np.uint32) >> 16).astype(np.uint16).view("V2") for name in arrays}
    np.savez(tmp_path / "b.npz", **halves)
    loaded = checkpoints.load(tmp_path / "b.npz", dtype=None).model
    for ours, theirs in zip(made.model.parameters(), loaded.parameters(), strict=True):
        assert theirs.dtype == torch.bfloat16
        assert torch.allclose(ours, theirs.float(), rtol=2**-7, atol=0)


def test_fortran_order_and_big_endian_arrays(tmp_path: Path) -> None:
    made = checkpoint(GOOGLE)
    checkpoints.save_checked(made, tmp_path / "a.npz", to="npz", lossy=True)
    with np.load(tmp_path / "a.npz") as arrays:
        other = {name: np.asfortranarray(arrays[name]).astype(">f4", order="F") for name in arrays}
    np.savez_compressed(tmp_path / "b.npz", **other)
    loaded = checkpoints.load(tmp_path / "b.npz").model
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), loaded.parameters(), strict=True))


def test_preprocessing_and_labels_are_saved(tmp_path: Path) -> None:
    processor = Processor.crop(32, 0.9, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    made = checkpoint(TINY, processor=processor, labels=("a", "b", "c", "d", "e"))
    for name in ("huggingface", "timm", "vitkit"):
        checkpoints.save(made, tmp_path / name, to=name)
        loaded = checkpoints.load(tmp_path / name)
        assert loaded.processor == processor
        assert loaded.labels == made.labels


def test_number_of_labels_must_match(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="5 classes, but there are 3 labels"):
        checkpoints.save(checkpoint(TINY, labels=("a", "b", "c")), tmp_path / "x")


def test_num_classes_replaces_the_head(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(TINY), tmp_path / "x")
    loaded = checkpoints.load(tmp_path / "x", num_classes=3)
    assert loaded.model.config.num_classes == 3
    assert loaded.labels == ("class 0", "class 1", "class 2")
    assert not loaded.model.head.weight.any()
    assert checkpoints.load(tmp_path / "x", num_classes=0).labels == ()


def test_image_size_resizes_position_table_and_processor(tmp_path: Path) -> None:
    made = checkpoint(TINY)
    checkpoints.save(made, tmp_path / "x")
    loaded = checkpoints.load(tmp_path / "x", image_size=(48, 64))
    batch = images((48, 64))
    assert torch.allclose(loaded.model(batch), made.model(batch), atol=1e-6)
    assert loaded.model.config.image_size == (48, 64)
    assert loaded.processor.size == (48, 64)
    checkpoints.save(loaded, tmp_path / "y")
    assert torch.equal(checkpoints.load(tmp_path / "y").model(batch), loaded.model(batch))
    fixed = checkpoint(SUPPORTED["vitkit"][0])
    checkpoints.save(fixed, tmp_path / "z")
    resized = checkpoints.load(tmp_path / "z", image_size=32).model
    assert torch.allclose(resized(images((32, 32))), fixed.model(images((32, 32))), atol=1e-6)
