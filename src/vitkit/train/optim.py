"""The update of the weights: which optimiser, and what weight decay means and touches."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with gradients clipped to the global norm `clip`, None for no clipping.

    `decay` says what `weight_decay` multiplies at each update: `rate` the learning rate of that step, as in the ViT
    paper and PyTorch; `schedule` only the schedule's share of the peak rate, as in big_vision. At a peak rate of 1e-3,
    0.1 in the first is 1e-4 in the second.
    """

    name: Literal["adamw"] = "adamw"
    rate: float = 1e-3
    weight_decay: float = 0.1
    decay: Literal["rate", "schedule"] = "rate"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        """Refuses what cannot train."""
        if self.rate <= 0.0 or self.weight_decay < 0.0:
            given = f"optimizer.rate is {self.rate} and weight_decay {self.weight_decay}"
            raise ValueError(f"{given}; the rate must be above 0, the decay at least 0")
        if self.clip is not None and self.clip <= 0.0:
            raise ValueError(f"optimizer.clip is {self.clip}; it must be above 0, or none for no clipping")


def build(config: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over the parameters of `module` that take gradients, in two groups: decayed and not."""
    decayed, kept = parameter_groups(module)
    weight_decay = config.weight_decay / config.rate if config.decay == "schedule" else config.weight_decay
    groups = [{"params": list(decayed.values()), "weight_decay": weight_decay}]
    if kept:
        groups.append({"params": list(kept.values()), "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, eps=config.eps, fused=True)


def parameter_groups(module: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The parameters by name: those under weight decay, and the rest.

    Only the matrices and kernels of dense layers and convolutions decay (big_vision's `.*/kernel`): no bias, norm,
    scale, position table, class token or other learned token.
    """
    decayed, kept = {}, {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kernel = name.endswith("weight") and parameter.ndim > 1
            (decayed if kernel else kept)[name] = parameter
    return decayed, kept


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate
