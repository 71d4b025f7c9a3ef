"""A running mean of the weights beside the ones that are trained (Polyak averaging; ViT paper, Table 2: 0.9999)."""

import torch
from torch import Tensor, nn


class Average:
    """mean <- k mean + (1 - k) weights after every update, k = min(decay, (1 + t) / (10 + t)) after t of them.

    The growing share of the past (as TensorFlow's moving averages have it) lets a short run forget where it started.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after update number `step`."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            self.values[name].lerp_(parameter.detach(), share)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Goes back to saved values."""
        for name, value in self.values.items():
            value.copy_(values[name])
