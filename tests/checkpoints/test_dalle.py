"""DALL-E's encoder: compared with naive loops, and loaded from a pickled module whose classes do not exist."""

import itertools
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vitkit import checkpoints
from vitkit.checkpoints.pretraining import load_dalle_encoder
from vitkit.layers.dalle import DalleEncoder


def tiny() -> DalleEncoder:
    torch.manual_seed(0)
    encoder = DalleEncoder(hidden=4, vocabulary=7)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def convolved(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Naive convolution with zero padding that preserves the size."""
    outer, _, kernel, _ = w.shape
    half = (kernel - 1) // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    out = np.zeros((outer, *x.shape[1:]))
    for o, row, column in itertools.product(range(outer), range(x.shape[1]), range(x.shape[2])):
        out[o, row, column] = b[o] + (w[o] * padded[:, row : row + kernel, column : column + kernel]).sum()
    return out


def naive(state: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Computes the logits of one image naively in float64."""

    def conv(name: str, x: np.ndarray) -> np.ndarray:
        return convolved(x, state[f"{name}.w"], state[f"{name}.b"])

    x = conv("blocks.input", 0.8 * pixels + 0.1)
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            name = f"blocks.group_{group}.block_{block}"
            shortcut = conv(f"{name}.id_path", x) if f"{name}.id_path.w" in state else x
            hidden = x
            for number in (1, 2, 3, 4):
                hidden = conv(f"{name}.res_path.conv_{number}", np.maximum(hidden, 0))
            x = shortcut + hidden / 64
        if group < 4:
            channels, rows, columns = x.shape
            x = x.reshape(channels, rows // 2, 2, columns // 2, 2).max(axis=(2, 4))
    return conv("blocks.output.conv", np.maximum(x, 0))


def test_encoder_matches_naive_loops() -> None:
    encoder = tiny().double()
    pixels = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    state = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        logits = encoder(pixels)
    for image, output in zip(pixels.numpy(), logits.numpy(), strict=True):
        np.testing.assert_allclose(output, naive(state, image), rtol=1e-10, atol=1e-10)
    assert torch.equal(encoder.tokenize(pixels), logits.argmax(dim=1))
    assert logits.shape == (2, 7, 2, 3)


def test_published_size() -> None:
    with torch.device("meta"):
        encoder = DalleEncoder()
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert shapes["blocks.input.w"] == (256, 3, 7, 7)
    assert shapes["blocks.group_4.block_1.id_path.w"] == (2048, 1024, 1, 1)
    assert shapes["blocks.group_4.block_2.res_path.conv_4.w"] == (2048, 512, 1, 1)
    assert shapes["blocks.output.conv.w"] == (8192, 2048, 1, 1)
    assert "blocks.group_1.block_1.id_path.w" not in shapes  # 256 to 256
    assert encoder(torch.empty(1, 3, 112, 112, device="meta")).shape == (1, 8192, 14, 14)


def as_published(encoder: nn.Module, path: Path) -> None:
    """Pickles the module with OpenAI's class names, which no longer exist when this returns."""
    modules = {name: types.ModuleType(name) for name in ("dall_e", "dall_e.encoder", "dall_e.utils")}
    names = {"DalleEncoder": ("dall_e.encoder", "Encoder"), "DalleBlock": ("dall_e.encoder", "EncoderBlock")}
    names["DalleConv"] = ("dall_e.utils", "Conv2d")
    made: dict[str, type] = {}
    for ours, (module_name, theirs) in names.items():
        made[ours] = type(theirs, (nn.Module,), {"__module__": module_name, "__qualname__": theirs})
        setattr(modules[module_name], theirs, made[ours])

    def copied(module: nn.Module) -> nn.Module:
        kind = made.get(type(module).__name__)
        if kind is None:
            if not isinstance(module, nn.Sequential):
                return module
            return nn.Sequential(OrderedDict((name, copied(part)) for name, part in module.named_children()))
        copy = kind()
        copy.device, copy.n_hid = torch.device("cpu"), 4
        for name, part in module.named_children():
            copy.add_module(name, copied(part))
        for name, parameter in module.named_parameters(recurse=False):
            copy.register_parameter(name, parameter)
        return copy

    sys.modules.update(modules)
    try:
        torch.save(copied(encoder), path)
    finally:
        for name in modules:
            del sys.modules[name]


def test_pickled_module_is_read_without_its_classes(tmp_path: Path) -> None:
    encoder = tiny()
    as_published(encoder, tmp_path / "encoder.pkl")
    with pytest.raises((pickle.UnpicklingError, ModuleNotFoundError)):
        torch.load(tmp_path / "encoder.pkl", weights_only=True)  # torch alone cannot load it
    loaded = load_dalle_encoder(tmp_path / "encoder.pkl")
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    converted = load_dalle_encoder(tmp_path / "encoder.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert torch.equal(converted.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit",))


def test_other_files_are_rejected(tmp_path: Path) -> None:
    module = nn.Sequential(OrderedDict(blocks=nn.ReLU()))
    module.evil = Evil()  # type: ignore[assignment]
    torch.save(module, tmp_path / "evil.pkl")
    with pytest.raises(checkpoints.CheckpointError, match=r"would call \w+\.exec, which can run code"):
        load_dalle_encoder(tmp_path / "evil.pkl")
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "linear.pkl")
    with pytest.raises(checkpoints.CheckpointError, match=r"is not DALL-E's encoder; its tensors are 0\.weight"):
        load_dalle_encoder(tmp_path / "linear.pkl")
    state = tiny().state_dict()
    save_file({**state, "more": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="missing, unknown or of the wrong shape: more"):
        load_dalle_encoder(tmp_path / "more.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="is not DALL-E's encoder; its tensors are a"):
        load_dalle_encoder(tmp_path / "other.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="does not exist"):
        load_dalle_encoder(tmp_path / "none.pkl")
