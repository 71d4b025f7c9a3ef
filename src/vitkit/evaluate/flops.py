"""How much arithmetic one image costs, counted operation by operation."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitkit.models import Backbone


def flops(model: Backbone, image_size: tuple[int, int] | None = None) -> int:
    """Floating-point operations of one forward pass of one image, a multiplication and an addition counted as two.

    Counts what torch's counter counts: matrix products, convolutions and attention, not norms and activations.
    `image_size` is (rows, columns), the model's own by default. Nothing is computed: it runs on the meta device.
    """
    size = image_size or model.config.image_size
    twin = copy.deepcopy(model).to("meta") if next(model.parameters()).device.type != "meta" else model
    training = twin.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin.eval()(torch.empty(1, model.config.channels, *size, device="meta"))
    twin.train(training)
    return counter.get_total_flops()
