"""The real ImageNet model on real photos: accuracy through the command, logits against an independent one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from vitkit.cli import main


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "weights" / "deit_tiny_patch16_224"


def test_accuracy_through_the_command(weights: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference has 82.8 % and 95.2 % with roundings of its own in resizing and cropping; one photo is 0.4 %."""
    assert main(["classify", str(weights), str(shared / "data" / "imagenet_sample"), "--json", "--top", "5"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 250
    # In order of file names the photos are of classes 0, 4, 8, ...
    ranks = [[p["index"] for p in row["predictions"]].index(4 * i) if 4 * i in [p["index"] for p in row["predictions"]]
             else 5 for i, row in enumerate(rows)]  # fmt: skip
    assert np.mean([rank == 0 for rank in ranks]) == pytest.approx(0.828, abs=0.0041)
    assert np.mean([rank < 5 for rank in ranks]) == pytest.approx(0.952, abs=0.0041)


def stated(path: Path) -> np.ndarray:
    """The reference's preprocessing: short side 256 bicubic, the long one rounded, centre 224 rounded down."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    width, height = (256 if side == min(image.size) else round(side * scale) for side in image.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    pixels = np.asarray(image, np.float32) / 255
    return ((pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])).transpose(2, 0, 1)


def test_logits_equal_the_reference(weights: Path, shared: Path) -> None:
    model = vitkit.load(weights)
    with np.load(weights / "reference_logits.npz") as reference:
        files, labels, expected = reference["files"], reference["labels"], reference["logits"]
    logits = []
    for start in range(0, 250, 25):
        batch = [stated(shared / "data" / "imagenet_sample" / name) for name in files[start : start + 25]]
        with torch.no_grad():
            logits.append(model(torch.from_numpy(np.stack(batch))).numpy())
    np.testing.assert_allclose(np.concatenate(logits), expected, atol=1e-3)
    assert (np.concatenate(logits).argmax(1) == labels).mean() == pytest.approx(0.828)


def test_logits_of_noise_equal_the_reference(weights: Path) -> None:
    model = vitkit.load(weights)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32))
    with np.load(weights / "reference_noise.npz") as reference, torch.no_grad():
        np.testing.assert_allclose(model(noise).numpy(), reference["logits"], atol=1e-4)
