"""Bytes normalised where the model is: the processor's numbers to the bit, and the predictor that hands them over."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import models
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor, on_device
from vitkit.predict import Predictor

DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    "processor",
    [Processor.squash(20), Processor.crop(16, mean=IMAGENET_MEAN, std=IMAGENET_STD),
     Processor.squash(20, mean=(0.5,), std=(0.25,))],
    ids=["half", "imagenet", "grey"],
)  # fmt: skip
def test_the_numbers_are_the_processors(processor: Processor, device: torch.device) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 31, 40, 3), dtype=np.uint8)
    levels = np.stack([processor.levels(each) for each in pixels])
    levels = levels if levels.ndim == 4 else levels[..., None]
    found = on_device.numbers(processor, on_device.handed(torch.from_numpy(levels), device))
    assert found.device.type == device.type
    assert np.array_equal(found.cpu().numpy(), np.stack([processor.array(each) for each in pixels]))


def test_a_predictor_that_hands_over_bytes_says_the_same() -> None:
    model = models.build(models.family("vit").TINY).eval()
    processor = Processor.squash(model.config.image_size)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (30, 44, 3), dtype=np.uint8)) for _ in range(11)]
    usual = Predictor(model, processor, precision="float32", device="cpu")
    handing = Predictor(model, processor, precision="float32", device="cpu")
    assert not usual._bytes, "a CPU has nothing to be handed"
    handing._bytes = True
    for one, other in zip(usual.logits(pictures), handing.logits(pictures), strict=True):
        assert np.array_equal(one.output, other.output)
