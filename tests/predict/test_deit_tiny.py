"""The real ImageNet model on real photos: accuracy through the command, logits against an independent one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vitkit
from vitkit.cli import main
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.predict import Predictor


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


# The reference rounds the long side to the nearest pixel and the crop's offset down, and knows no colour profiles.
STATED = Processor(
    size=(224, 224),
    resize="shortest",
    resize_to=(256, 256),
    center_crop="huggingface",
    interpolation="bicubic",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    profile="ignore",
)


def test_logits_equal_the_reference(weights: Path, shared: Path) -> None:
    model = vitkit.load(weights)
    with np.load(weights / "reference_logits.npz") as reference:
        files, labels, expected = reference["files"], reference["labels"], reference["logits"]
    photos = [shared / "data" / "imagenet_sample" / name for name in files]
    logits = np.stack([outcome.output for outcome in Predictor(model.model, STATED).logits(photos)])
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert (logits.argmax(1) == labels).mean() == pytest.approx(0.828)


def test_logits_of_noise_equal_the_reference(weights: Path) -> None:
    model = vitkit.load(weights)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32))
    with np.load(weights / "reference_noise.npz") as reference, torch.no_grad():
        np.testing.assert_allclose(model(noise).numpy(), reference["logits"], atol=1e-4)
