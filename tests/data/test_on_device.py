"""Normalization on the device: bit for bit equal to the processor, and the same predictions."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit import models
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.data.processor.resampling import normalize_on_device, to_device
from vitkit.inference import Predictor

DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    "processor",
    [Processor.squash(20), Processor.crop(16, mean=IMAGENET_MEAN, std=IMAGENET_STD),
     Processor.squash(20, mean=(0.5,), std=(0.25,))],
    ids=["half", "imagenet", "gray"],
)  # fmt: skip
def test_it_equals_the_processor(processor: Processor, device: torch.device) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 31, 40, 3), dtype=np.uint8)
    batch = np.stack([processor.pixels(each) for each in pixels])
    batch = batch if batch.ndim == 4 else batch[..., None]
    found = normalize_on_device(processor, to_device(torch.from_numpy(batch), device))
    assert found.device.type == device.type
    assert np.array_equal(found.cpu().numpy(), np.stack([processor.array(each) for each in pixels]))


def test_a_predictor_with_normalization_on_device_has_the_same_outputs() -> None:
    model = models.build(models.family("vit").TINY).eval()
    processor = Processor.squash(model.config.image_size)
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (30, 44, 3), dtype=np.uint8)) for _ in range(11)]
    on_host = Predictor(model, processor, precision="float32", device="cpu")
    with_bytes = Predictor(model, processor, precision="float32", device="cpu")
    assert not on_host._normalize_on_device, "not used on the CPU"
    with_bytes._normalize_on_device = True
    for one, other in zip(on_host.logits(images), with_bytes.logits(images), strict=True):
        assert np.array_equal(one.output, other.output)
