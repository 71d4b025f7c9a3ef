"""DALL-E's encoder: against loops over pixels, and out of a pickled module without a class of it being there."""

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
from vitkit.checkpoints.words import load_words
from vitkit.layers.dalle import DalleEncoder


def tiny() -> DalleEncoder:
    torch.manual_seed(0)
    encoder = DalleEncoder(hidden=4, vocabulary=7)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def convolved(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A convolution with as much zero padding as keeps the size, one product at a time."""
    outer, _, kernel, _ = w.shape
    half = (kernel - 1) // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    out = np.zeros((outer, *x.shape[1:]))
    for o, row, column in itertools.product(range(outer), range(x.shape[1]), range(x.shape[2])):
        out[o, row, column] = b[o] + (w[o] * padded[:, row : row + kernel, column : column + kernel]).sum()
    return out


def naive(state: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """The logits of one picture by the description of the architecture, in float64."""

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


def test_it_is_what_its_description_says_pixel_by_pixel() -> None:
    encoder = tiny().double()
    pixels = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    state = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    with torch.no_grad():
        logits = encoder(pixels)
    for picture, found in zip(pixels.numpy(), logits.numpy(), strict=True):
        np.testing.assert_allclose(found, naive(state, picture), rtol=1e-10, atol=1e-10)
    assert torch.equal(encoder.tokenize(pixels), logits.argmax(dim=1))
    assert logits.shape == (2, 7, 2, 3)


def test_the_published_size() -> None:
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
    """Pickles it whole, its classes called as OpenAI's were, which are gone when this returns."""
    modules = {name: types.ModuleType(name) for name in ("dall_e", "dall_e.encoder", "dall_e.utils")}
    places = {"DalleEncoder": ("dall_e.encoder", "Encoder"), "DalleBlock": ("dall_e.encoder", "EncoderBlock")}
    places["DalleConv"] = ("dall_e.utils", "Conv2d")
    made: dict[str, type] = {}
    for ours, (where, theirs) in places.items():
        made[ours] = type(theirs, (nn.Module,), {"__module__": where, "__qualname__": theirs})
        setattr(modules[where], theirs, made[ours])

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


def test_a_pickled_module_is_read_without_its_classes(tmp_path: Path) -> None:
    encoder = tiny()
    as_published(encoder, tmp_path / "encoder.pkl")
    with pytest.raises((pickle.UnpicklingError, ModuleNotFoundError)):
        torch.load(tmp_path / "encoder.pkl", weights_only=True)  # nothing that torch alone would open
    loaded = load_words(tmp_path / "encoder.pkl")
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    converted = load_words(tmp_path / "encoder.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert torch.equal(converted.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit",))


def test_what_is_not_the_encoder_is_refused_by_name(tmp_path: Path) -> None:
    module = nn.Sequential(OrderedDict(blocks=nn.ReLU()))
    module.evil = Evil()  # type: ignore[assignment]
    torch.save(module, tmp_path / "evil.pkl")
    with pytest.raises(checkpoints.CheckpointError, match=r"wants builtins\.exec|wants exec"):
        load_words(tmp_path / "evil.pkl")
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "linear.pkl")
    with pytest.raises(checkpoints.CheckpointError, match=r"wants torch\.nn\.modules\.linear\.Linear"):
        load_words(tmp_path / "linear.pkl")
    state = tiny().state_dict()
    save_file({**state, "more": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="missing, unknown or misshapen more"):
        load_words(tmp_path / "more.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="is not DALL-E's encoder: it holds a"):
        load_words(tmp_path / "other.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="there is no file"):
        load_words(tmp_path / "none.pkl")
