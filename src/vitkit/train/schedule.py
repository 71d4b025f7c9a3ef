"""The learning rate over a run, as pure functions of the step (ViT paper, Tables 3 and 4; big_vision's schedules)."""

import math
from dataclasses import dataclass
from typing import Literal


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
