"""Compares the outputs of an exported model with those of the original model."""

import copy

import torch
from torch import Tensor

from vitkit.models import Backbone

#: Batch sizes to test; models are traced with another one.
BATCHES = (1, 3)
SEED = 0


@torch.inference_mode()
def differences(model: Backbone, exported: Backbone) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the largest difference and the scale of each output on seeded random images.

    The scale is the largest absolute value of the original output, at least 1; tolerances are multiples of it. NaN
    gives an infinite difference.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(SEED)
    largest: dict[str, float] = {}
    scale: dict[str, float] = {}
    for batch in BATCHES:
        images = torch.randn(batch, model.config.channels, *model.config.image_size, generator=generator)
        expected, actual = _outputs(model, images), _outputs(exported, images)
        for name, value in expected.items():
            largest[name] = max(largest.get(name, 0.0), _difference(value, actual[name]))
            scale[name] = max(scale.get(name, 1.0), float(value.abs().max()))
    return largest, scale


def _outputs(model: Backbone, images: Tensor) -> dict[str, Tensor]:
    features = model.features(images)
    return {
        "logits": model.logits(features),
        "representations": model.represent(features),
        "tokens": features.tokens,
    }


def _difference(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    largest = float((expected.double() - actual.double()).abs().max())
    return largest if largest == largest else float("inf")
