"""The learning rate over a run, as pure functions of the step (ViT paper, Tables 3 and 4; big_vision's schedules)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A linear warm-up from 0, a decay, and a linear cooldown to 0 laid over both; all lengths in steps.

    `end` is the share of the peak where `cosine` and `linear` stop. `rsqrt` decays as 1 / sqrt(1 + (step - warmup) /
    timescale), with no need to know the end. `constant` does not decay.
    """

    decay: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup: int = 0
    cooldown: int = 0
    end: float = 0.0
    timescale: int = 10_000

    def __post_init__(self) -> None:
        """Refuses lengths that are none."""
        for name, least in (("warmup", 0), ("cooldown", 0), ("end", 0), ("timescale", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"schedule.{name} is {getattr(self, name)}; it must be at least {least}")


def factor(schedule: Schedule, step: int, total: int) -> float:
    """The share of the peak rate for the update that follows `step` others, of `total` in the run.

    As in the original, the first update of a warm-up has rate 0. Raises ValueError where the warm-up fills the run.
    """
    if total > 1 and schedule.warmup >= total:
        raise ValueError(f"the warm-up of {schedule.warmup} steps fills the run of {total}")
    value = _decay(schedule, step, total)
    if schedule.warmup:
        value *= min(1.0, step / schedule.warmup)
    if schedule.cooldown:
        value *= min(1.0, (total - step) / schedule.cooldown)
    return value


def _decay(schedule: Schedule, step: int, total: int) -> float:
    since = max(0, step - schedule.warmup)
    progress = min(1.0, since / max(1, total - schedule.warmup))
    if schedule.decay == "cosine":
        return schedule.end + (1.0 - schedule.end) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule.decay == "linear":
        return schedule.end + (1.0 - schedule.end) * (1.0 - progress)
    if schedule.decay == "rsqrt":
        return 1.0 / math.sqrt(1.0 + since / schedule.timescale)
    return 1.0


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
