"""Whether an exported model gives the answers of the model that it was made from."""

import copy

import torch
from torch import Tensor

from vitkit.models import Backbone

#: One image and an odd number of them: neither is the number that a model is traced with.
BATCHES = (1, 3)
SEED = 0


@torch.inference_mode()
def differences(model: Backbone, exported: Backbone) -> tuple[dict[str, float], dict[str, float]]:
    """The largest difference of each output over seeded random images, and what a tolerance for it is a multiple of.

    That is the largest value of the model's own output, and at least 1. A number that is none differs by infinity.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(SEED)
    differing: dict[str, float] = {}
    scale: dict[str, float] = {}
    for batch in BATCHES:
        images = torch.randn(batch, model.config.channels, *model.config.image_size, generator=generator)
        expected, given = _answers(model, images), _answers(exported, images)
        for name, value in expected.items():
            differing[name] = max(differing.get(name, 0.0), _difference(value, given[name]))
            scale[name] = max(scale.get(name, 1.0), float(value.abs().max()))
    return differing, scale


def _answers(model: Backbone, images: Tensor) -> dict[str, Tensor]:
    features = model.features(images)
    return {
        "logits": model.logits(features),
        "representations": model.represent(features),
        "tokens": features.tokens,
    }


def _difference(expected: Tensor, given: Tensor) -> float:
    if expected.shape != given.shape:
        return float("inf")
    largest = float((expected.double() - given.double()).abs().max())
    return largest if largest == largest else float("inf")
