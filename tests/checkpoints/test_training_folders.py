"""Folders that training scripts and other libraries write, and files that are not weights at all."""

import json
import os
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import oracle
from safetensors.torch import load_file, save_file
from tiny_vits import SUPPORTED, TINY, checkpoint, images
from torch import Tensor

from vitkit import checkpoints
from vitkit.checkpoints import CheckpointError

CONFIG = SUPPORTED["huggingface"][0]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A Hugging Face folder."""
    checkpoints.save(checkpoint(CONFIG), tmp_path / "base", to="huggingface")
    return tmp_path / "base"


def _error(source: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(source)
    assert str(caught.value).isprintable()
    return str(caught.value)


def _logits(source: Any) -> Tensor:
    with torch.no_grad():
        return checkpoints.load(source).model(images((32, 32)))


def _adapter(folder: Path, base: Path, tensors: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "lora_alpha": 6, "r": 3}
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / ADAPTER)
    return folder


ADAPTER = "adapter_model.safetensors"
QUERY = "encoder.layer.1.attention.attention.query"
LORA = {f"vit.{QUERY}.lora_A.weight": torch.ones(3, 64) / 8, f"vit.{QUERY}.lora_B.weight": torch.ones(64, 3) / 4}


def test_adapters_are_merged_into_their_base_model(base: Path, tmp_path: Path) -> None:
    heads = {"classifier.weight": torch.full((2, 64), 0.5), "classifier.bias": torch.zeros(2)}
    folder = _adapter(tmp_path / "adapter", base, LORA | heads)
    tensors = load_file(base / "model.safetensors")
    tensors[f"vit.{QUERY}.weight"] += 2 * LORA[f"vit.{QUERY}.lora_B.weight"] @ LORA[f"vit.{QUERY}.lora_A.weight"]
    shutil.copytree(base, tmp_path / "merged")
    save_file(tensors | heads, tmp_path / "merged" / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "merged" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "id2label"}))
    assert torch.equal(_logits(folder), _logits(tmp_path / "merged"))
    assert torch.equal(_logits(folder / ADAPTER), _logits(folder))
    assert "a LoRA adapter was merged into 1 weight matrices" in checkpoints.load(folder).origin.notes
    # A relative path is found next to the adapter.
    assert torch.equal(_logits(_adapter(folder, Path("base"), LORA | heads)), _logits(tmp_path / "merged"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"peft_type": "IA3"},
            "peft_type is 'IA3', but vitkit merges only LoRA adapters (peft_type 'LORA'); merge the adapter with peft",
        ),
        ({"use_dora": True}, "sets use_dora, which vitkit does not support"),
        ({"init_lora_weights": "pissa"}, "sets init_lora_weights, which vitkit does not support"),
        ({"alpha_pattern": {"query": 3}}, "sets alpha_pattern, which vitkit does not support"),
        ({"lora_alpha": "x"}, "lora_alpha is x, expected a finite number"),
        ({"base_model_name_or_path": None}, "does not name the base model; set base_model_name_or_path"),
        (
            {"base_model_name_or_path": "./nowhere"},
            "the base model of the adapter cannot be loaded: no such file or folder: ./nowhere",
        ),
    ],
)
def test_adapters_that_are_not_merged(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in _error(_adapter(tmp_path / "adapter", base, LORA, **changes))


def test_adapters_must_fit_and_end(base: Path, tmp_path: Path) -> None:
    wrong = {name: tensor[:, :2].contiguous() for name, tensor in LORA.items()}
    assert "the adapter does not match its base model" in _error(_adapter(tmp_path / "a", base, wrong))
    assert "is an adapter, too" in _error(_adapter(tmp_path / "b", tmp_path / "b", LORA))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_peft(base: Path, tmp_path: Path) -> None:
    peft, transformers = oracle("peft"), oracle("transformers")
    model = transformers.ViTForImageClassification.from_pretrained(base).eval()
    options = {"target_modules": ["q_proj", "v_proj", "query", "value"], "modules_to_save": ["classifier"]}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, use_rslora=True, **options)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "classifier" in name:
                parameter.normal_(std=0.2)
        adapted.save_pretrained(tmp_path / "adapter")
        expected = adapted(images((32, 32))).logits
    torch.testing.assert_close(_logits(tmp_path / "adapter"), expected, rtol=0, atol=1e-5)


def test_timm_wrapper_folders(tmp_path: Path) -> None:
    checkpoints.save(checkpoint(SUPPORTED["timm"][0]), tmp_path / "timm", to="timm")
    shutil.copytree(tmp_path / "timm", tmp_path / "wrapper")
    tensors = load_file(tmp_path / "timm" / "model.safetensors")
    save_file({f"timm_model.{k}": v for k, v in tensors.items()}, tmp_path / "wrapper" / "model.safetensors")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    processor = {"pretrained_cfg": config.pop("pretrained_cfg"), "image_processor_type": "TimmWrapperImageProcessor"}
    config |= {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]}
    del config["vitkit"]
    (tmp_path / "wrapper" / "config.json").write_text(json.dumps(config))
    (tmp_path / "wrapper" / "preprocessor_config.json").write_text(json.dumps(processor))
    assert torch.equal(_logits(tmp_path / "wrapper"), _logits(tmp_path / "timm"))
    loaded, expected = checkpoints.load(tmp_path / "wrapper"), checkpoints.load(tmp_path / "timm")
    assert loaded.processor.size == expected.processor.size
    assert loaded.labels == expected.labels


def _flax(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The nested dict of Flax that transformers 4 writes for these tensors."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        array = tensor.numpy()
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.ascontiguousarray(array)
    return tree


def test_flax_folders(base: Path) -> None:
    serialization = oracle("flax.serialization")
    expected = _logits(base)
    tree = _flax(load_file(base / "model.safetensors"))
    (base / "model.safetensors").unlink()
    data = serialization.to_bytes(tree)
    (base / "flax_model.msgpack").write_bytes(data)
    assert torch.equal(_logits(base), expected)
    for end in (1, len(data) // 2, len(data) - 1):
        (base / "flax_model.msgpack").write_bytes(data[:end])
        assert "truncated or damaged" in _error(base)
    for bad in (b"\xc1", b"\x80", b"\xdf\xff\xff\xff\xff", b"\x91" * 100_000, b"\xc7\x03\x01\x93\x01\x02"):
        (base / "flax_model.msgpack").write_bytes(bad)
        assert "flax_model.msgpack: " in _error(base)


def test_trainer_folders(base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (5, 10, 100):
        (run / f"checkpoint-{step}").mkdir(parents=True)
    shutil.copytree(base, run / "checkpoint-10", dirs_exist_ok=True)
    shutil.copytree(base, run / "checkpoint-5", dirs_exist_ok=True)
    assert f"pass {run / 'checkpoint-10'}, the newest of 2" in _error(run)
    weights = load_file(base / "model.safetensors")
    (run / "checkpoint-10" / "model.safetensors").unlink()
    torch.save(weights, run / "checkpoint-10" / "weights.bin")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state_0.pth"):
        torch.save({"a": 1}, run / "checkpoint-10" / name)
    assert torch.equal(_logits(run / "checkpoint-10"), _logits(base))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("latest", "DeepSpeed checkpoint: run its zero_to_fp32.py"),
        (".metadata", "sharded checkpoint of torch.distributed: convert it"),
        ("tf_model.h5", "only TensorFlow weights"),
        ("manifest.ocdbt", "Orbax checkpoint"),
    ],
)
def test_folders_of_other_kinds(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert message in _error(tmp_path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 346293852\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "the file is an HTML page"),
        (b"<html>", "the file is an HTML page"),
        (b"\x1f\x8b\x08", "compressed with gzip; unpack it first"),
        (b"PK\x03\x04" + bytes(100), "download or copy the file again"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".npz"])
def test_files_that_are_not_weights(start: bytes, message: str, suffix: str, tmp_path: Path) -> None:
    if start.startswith(b"PK") and suffix == ".safetensors":
        message = "download or copy the file again"
    path = tmp_path / f"x{suffix}"
    path.write_bytes(start)
    assert message in _error(path)


def test_other_files_of_torch(tmp_path: Path) -> None:
    torch.save(checkpoint(TINY).model.state_dict(), tmp_path / "cut.pth")
    data = (tmp_path / "cut.pth").read_bytes()
    for end in (len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pth").write_bytes(data[:end])
        assert "download or copy the file again" in _error(tmp_path / "cut.pth")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "cut.pth", "cut.pth")
    assert "the file is a tar archive" in _error(tmp_path / "x.tar")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    model = oracle("timm").create_model("vit_tiny_patch16_224", **sizes).eval()
    images = torch.randn(1, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trace of a model with Python conditions
        torch.jit.save(torch.jit.trace(model, images, check_trace=False), tmp_path / "x.pt")
    loaded = checkpoints.load(tmp_path / "x.pt", config={"num_heads": 2})
    torch.testing.assert_close(loaded.model(images), model(images))
    assert any("its code is not run" in note for note in loaded.origin.notes)
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "y.pt")
    assert "match none of the formats" in _error(tmp_path / "y.pt")


def test_urls(tmp_path: Path) -> None:
    assert "download the file and pass its path" in _error("https://example.com/x.pth")
    assert "pass the Hub id google/vit-base" in _error("https://huggingface.co/google/vit-base")


def test_pipes_and_folders_in_place_of_files(base: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    assert "not a regular file" in _error(tmp_path / "x.pth")
    (base / "config.json").unlink()
    (base / "config.json").mkdir()
    assert "config.json is a folder, not a regular file" in _error(base)


def test_saved_files_have_the_mode_of_the_process(base: Path) -> None:
    assert (base / "model.safetensors").stat().st_mode == (base / "config.json").stat().st_mode


def test_control_characters_are_escaped(base: Path, tmp_path: Path) -> None:
    state = checkpoint(TINY).model.state_dict()
    torch.save({"a\x1b[31m\r": state, "b\x1b[31m\r": state}, tmp_path / "x.pth")
    assert r"a\x1b[31m\r" in _error(tmp_path / "x.pth")
    torch.save({"a\x1b[31m\r": state}, tmp_path / "x\x1b[31m.pth")
    assert all(note.isprintable() for note in checkpoints.load(tmp_path / "x\x1b[31m.pth").origin.notes)
    config = json.loads((base / "config.json").read_text())
    config["id2label"]["0"] = "cat\r\n\x1b[31m"
    (base / "config.json").write_text(json.dumps(config))
    assert checkpoints.load(base).labels[0] == r"cat\r\n\x1b[31m"
