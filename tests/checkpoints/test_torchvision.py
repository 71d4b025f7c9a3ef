"""Conversion to and from torchvision's ViT.

torchvision changes the image size with a helper that resizes the state dict for a model built at that size.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import oracle
from tiny_vits import fill, images

from vitkit import checkpoints
from vitkit.data.processor import IMAGENET_MEAN

vision_transformer = oracle("torchvision.models.vision_transformer")

CASES: list[dict[str, Any]] = [
    {"image_size": 32, "patch_size": 8, "hidden_dim": 64, "num_heads": 1, "mlp_dim": 96},
    {"image_size": 48, "patch_size": 16, "hidden_dim": 128, "num_heads": 2, "mlp_dim": 64},
    {"image_size": 56, "patch_size": 14, "hidden_dim": 192, "num_heads": 3, "mlp_dim": 64, "representation_size": 32},
    {"image_size": 64, "patch_size": 32, "hidden_dim": 384, "num_heads": 6, "mlp_dim": 64},
]


def _theirs(arguments: dict[str, Any]) -> Any:
    return fill(vision_transformer.VisionTransformer(num_layers=2, num_classes=5, **arguments))


@pytest.mark.parametrize("arguments", CASES)
def test_both_directions(arguments: dict[str, Any], tmp_path: Path) -> None:
    theirs = _theirs(arguments)
    torch.save(theirs.state_dict(), tmp_path / "vit_b_16.pth")
    loaded = checkpoints.load(tmp_path / "vit_b_16.pth")
    assert loaded.origin.format == "torchvision"
    size = arguments["image_size"]
    batch = images((size, size))
    with torch.no_grad():
        assert (loaded.model(batch) - theirs(batch)).abs().max() < 1e-5
    checkpoints.save(loaded, tmp_path / "again.pth", to="torchvision")
    written = torch.load(tmp_path / "again.pth", weights_only=True)
    assert written.keys() == theirs.state_dict().keys()
    assert all(torch.equal(written[key], value) for key, value in theirs.state_dict().items())


def test_old_names(tmp_path: Path) -> None:
    theirs = _theirs(CASES[0])
    old = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): value
        for key, value in theirs.state_dict().items()
    }
    torch.save(old, tmp_path / "old.pth")
    with torch.no_grad():
        ours = checkpoints.load(tmp_path / "old.pth").model
        assert (ours(images((32, 32))) - theirs(images((32, 32)))).abs().max() < 1e-5


@pytest.mark.parametrize("size", [16, 48])
def test_other_sizes(size: int, tmp_path: Path) -> None:
    theirs = _theirs(CASES[0])
    resized = vision_transformer.interpolate_embeddings(size, 8, theirs.state_dict())
    torch.save(resized, tmp_path / "resized.pth")
    other = _theirs({**CASES[0], "image_size": size})
    other.load_state_dict(resized)
    with torch.no_grad():
        ours = checkpoints.load(tmp_path / "resized.pth").model
        assert (ours(images((size, size))) - other(images((size, size)))).abs().max() < 1e-5
    torch.save(theirs.state_dict(), tmp_path / "native.pth")
    enlarged = checkpoints.load(tmp_path / "native.pth", image_size=size)
    checkpoints.save_checked(enlarged, tmp_path / "enlarged.pth", to="torchvision", lossy=True)
    other.load_state_dict(torch.load(tmp_path / "enlarged.pth", weights_only=True))
    with torch.no_grad():
        assert (enlarged.model(images((size, size))) - other(images((size, size)))).abs().max() < 1e-5


@pytest.mark.parametrize(("size", "short", "interpolation"), [(224, 256, "bilinear"), (384, None, "bicubic")])
def test_preprocessing_of_its_weights(size: int, short: int | None, interpolation: str, tmp_path: Path) -> None:
    state = _theirs({**CASES[0], "image_size": size, "patch_size": 32}).state_dict()
    torch.save(state, tmp_path / "x.pth")
    processor = checkpoints.load(tmp_path / "x.pth").processor
    assert (processor.size, processor.interpolation, processor.mean) == ((size, size), interpolation, IMAGENET_MEAN)
    assert processor.resize_to in (short, size)
