"""Learning rate schedules (ViT paper, Tables 3 and 4; big_vision), and a moving average of weights."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitkit.layers import BatchNorm


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate schedule with linear warm-up, decay and linear cooldown. All lengths are in steps.

    `end` is the final value of `cosine` and `linear` as a fraction of the peak. `rsqrt` decays as 1 / sqrt(1 + (step -
    warmup) / timescale), independent of the length of the run. `constant` does not decay. The cooldown multiplies the
    last `cooldown` steps by a factor that falls to 0.
    """

    decay: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup: int = 0
    cooldown: int = 0
    end: float = 0.0
    timescale: int = 10_000

    def __post_init__(self) -> None:
        """Raises ValueError if a value is below its minimum."""
        for name, least in (("warmup", 0), ("cooldown", 0), ("end", 0), ("timescale", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"schedule.{name} is {getattr(self, name)}; it must be at least {least}")


def factor(schedule: Schedule, step: int, total: int) -> float:
    """Returns the learning rate of `step` (from 0) out of `total` steps, as a fraction of the peak learning rate.

    As in the original code, a warm-up begins with a learning rate of 0. Raises ValueError if the warm-up is not shorter
    than the run.
    """
    if total > 1 and schedule.warmup >= total:
        raise ValueError(
            f"schedule.warmup is {schedule.warmup}; it must be below the number of training steps, {total}"
        )
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


class EMA:
    """Exponential moving average of weights, with a decay that increases during the first updates.

    ema <- k ema + (1 - k) weights with k = min(decay, (1 + t) / (10 + t)); t is the number of updates so far. As
    in TensorFlow, the decay grows with t, which reduces the weight of the initial values in short runs. The running
    statistics of batch norms are averaged, too, as in timm: those of the last step belong to other weights.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: tensor.detach().clone() for name, tensor in self._averaged(module)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Updates the average with the weights after training step `step` (from 1)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, tensor in self._averaged(module):
            self.values[name].lerp_(tensor.detach(), weight)

    @staticmethod
    def _averaged(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        yield from module.named_parameters()
        for prefix, layer in module.named_modules():
            if isinstance(layer, BatchNorm):
                names = (f"{prefix}.running_mean", f"{prefix}.running_var")
                yield from zip(names, layer.statistics, strict=True)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Restores the average from a training checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])
