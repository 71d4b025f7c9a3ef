"""What torch's optimisers may be handed: a function that computes the loss again."""

from collections.abc import Callable

import torch

Closure = Callable[[], float]


def loss_of(closure: Closure | None) -> float | None:
    """What the closure of a step gives, computed with gradients; None where there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
