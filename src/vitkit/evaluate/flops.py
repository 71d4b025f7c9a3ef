"""How much arithmetic one image costs, counted operation by operation."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitkit.evaluate import Subject
from vitkit.models import Backbone

READS = "model"


def evaluate(subject: Subject) -> dict[str, float]:
    """`giga`, billions of floating-point operations an image, and `million_parameters`."""
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    return {"giga": flops(subject.model) / 1e9, "million_parameters": parameters / 1e6}


def flops(model: Backbone, image_size: tuple[int, int] | None = None) -> int:
    """Floating-point operations of one forward pass of one image, a multiplication and an addition counted as two.

    Counts what torch's counter counts: matrix products, convolutions and attention, not norms and activations.
    `image_size` is (rows, columns), the model's own by default. Nothing is computed: it runs on the meta device.
    """
    size = image_size or model.config.image_size
    # The counter follows gradients through modules, and trips over parameters that are broadcast: there are none to
    # follow.
    twin = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    dtype = next(twin.parameters()).dtype
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, model.config.channels, *size, device="meta", dtype=dtype))
    return counter.get_total_flops()
