"""Plan of a run: the number of steps and evaluations, and the expected time and memory.

Time and memory are measured in a short trial. The number of steps and evaluations can depend on measured times, so the
plan is saved in `plan.json` of the run folder before the first step. A resumed run reads this plan and has the same
steps and evaluations.
"""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vitkit import atomic
from vitkit import config as configs
from vitkit.config import JsonDict
from vitkit.regular import read_text
from vitkit.training.run import Run

#: Largest number of evaluations of a run whose `evaluate_every` is None.
EVALUATIONS = 10
# Fraction of `evaluation_share` that a plan uses, as a safety margin, because the measured times are not exact.
SAFETY = 0.8
# How often the number of steps of a run with a length in minutes is revised.
REVISIONS = 20
# Largest fraction of the steps for each of warm-up and cooldown, in a run with a length in minutes.
RAMP = 0.2
# Planned seconds after the last evaluation, for saving files and writing the report.
CLOSING = 3.0

now = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured costs of a run: seconds per training step and per evaluation, and peak memory in bytes.

    The costs are measured in `trial_steps` training steps on `device`. `evaluation` is the time for all validation
    images. `memory` is 0 if unknown.
    """

    step: float
    evaluation: float
    memory: int
    trial_steps: int
    device: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The number of steps and evaluations of a run, its data size, and the expected time.

    `steps` is the number of training steps, and `evaluate_every` the number of steps between evaluations. `warmup` and
    `cooldown` are the warm-up and cooldown of the schedule in steps. `requested` contains the settings that the plan
    was made for. `costs` are the measured costs, or None if nothing was measured. `seconds` is the expected time of the
    whole run. `revisions` are changes of the number of steps in a run with a length in minutes, as pairs (step at which
    the change takes effect, new number of steps).
    """

    requested: JsonDict
    images: int
    validation_images: int
    classes: int
    batch_size: int
    steps: int
    evaluate_every: int
    warmup: int
    cooldown: int
    setup_seconds: float = 0.0
    seconds: float | None = None
    costs: Costs | None = None
    revisions: tuple[tuple[int, int], ...] = ()

    @property
    def epochs(self) -> float:
        """Number of epochs of the run."""
        return self.steps * self.batch_size / max(1, self.images)

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the run, including the last one."""
        return math.ceil(self.steps / self.evaluate_every)

    @property
    def fixed(self) -> bool:
        """Whether the run itself sets the interval of evaluations, so that the plan does not change it."""
        return self.requested["evaluate_every"] is not None and self.requested["minutes"] is None

    @property
    def evaluation_share(self) -> float | None:
        """Expected fraction of the total time for evaluations, or None if times were not measured."""
        if self.costs is None or not self.seconds:
            return None
        return self.evaluations * self.costs.evaluation / self.seconds

    def steps_after(self, step: int) -> int:
        """Returns the planned total number of steps, according to the last revision at or before `step`."""
        return next((steps for at, steps in reversed(self.revisions) if at <= step), self.steps)

    def revised(self, step: int, steps: int) -> "Plan":
        """Returns the plan with a revision: from training step `step` on, the run has `steps` steps."""
        return replace(self, revisions=(*(each for each in self.revisions if each[0] < step), (step, steps)))

    def applied(self, run: Run) -> Run:
        """Returns the run with the length, warm-up, cooldown and evaluation interval of the plan."""
        schedule = replace(run.schedule, warmup=self.warmup, cooldown=self.cooldown)
        return replace(
            run,
            steps=self.steps,
            epochs=None,
            minutes=None,
            evaluate_every=self.evaluate_every,
            schedule=schedule,
        )

    def event(self) -> JsonDict:
        """Returns the fields of the plan for the log."""
        costs = None if self.costs is None else asdict(self.costs)
        share = self.evaluation_share
        return {
            "images": self.images,
            "validation_images": self.validation_images,
            "classes": self.classes,
            "batch_size": self.batch_size,
            "total": self.steps,
            "epochs": round(self.epochs, 3),
            "evaluate_every": self.evaluate_every,
            "evaluations": self.evaluations,
            "minutes": None if self.seconds is None else round(self.seconds / 60, 3),
            "evaluation_share": None if share is None else round(share, 4),
            "memory_gb": None if costs is None else round(costs["memory"] / 1e9, 3),
            "costs": costs,
        }


def requested(run: Run) -> JsonDict:
    """Returns the settings of a run that determine its plan."""
    names = ("steps", "epochs", "minutes", "batch_size", "evaluate_every", "evaluation_share")
    return {name: getattr(run, name) for name in names} | {"schedule": configs.to_dict(run.schedule)}


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds of preparation (`setup`), and the seconds and steps that earlier processes have trained."""

    setup: float = 0.0
    seconds: float = 0.0
    steps: int = 0


def make(run: Run, images: int, validation_images: int, costs: Costs | None, spent: Spent | None = None) -> Plan:
    """Returns the plan of a run from the measured costs of a step and of an evaluation.

    Raises ValueError if a length in minutes is too short for one step and one evaluation.
    """
    spent = spent or Spent()
    warmup, cooldown = run.schedule.warmup, run.schedule.cooldown
    if run.minutes is not None:
        assert costs is not None, "a length in minutes needs a trial"
        steps, evaluations = _fitted(run.minutes, run, costs, spent)
        warmup, cooldown = min(warmup, int(RAMP * steps)), min(cooldown, int(RAMP * steps))
        every = max(run.evaluate_every or 1, math.ceil((steps - spent.steps) / evaluations))
    else:
        steps = run.total_steps(images)
        every = run.evaluate_every or math.ceil(steps / _affordable(run, costs, steps))
    plan = Plan(
        requested=requested(run),
        images=images,
        validation_images=validation_images,
        classes=run.model.num_classes,
        batch_size=run.batch_size,
        steps=steps,
        evaluate_every=every,
        warmup=warmup,
        cooldown=cooldown,
        setup_seconds=spent.setup,
        costs=costs,
    )
    if costs is None:
        return plan
    seconds = steps * costs.step + plan.evaluations * costs.evaluation
    return replace(plan, seconds=spent.setup + seconds + CLOSING)


def _affordable(run: Run, costs: Costs | None, steps: int) -> int:
    """Returns the number of evaluations that fit into `evaluation_share` of the time, but at least 1."""
    if costs is None:
        return 1
    share = SAFETY * run.evaluation_share
    seconds = steps * costs.step * share / (1.0 - share)
    return max(1, min(EVALUATIONS, steps, int(seconds / max(costs.evaluation, 1e-9))))


def _fitted(minutes: float, run: Run, costs: Costs, spent: Spent) -> tuple[int, int]:
    """Returns the total number of steps and the number of remaining evaluations that fit into `minutes`."""
    needed = spent.setup + CLOSING + spent.seconds + costs.step + costs.evaluation
    left = 60.0 * minutes - spent.setup - CLOSING - spent.seconds
    if 60.0 * minutes < needed:
        trained = f"the run has trained for {duration(spent.seconds)}, " if spent.seconds else ""
        raise ValueError(
            f"minutes is {minutes:g}, but {trained}the preparation takes {spent.setup:.1f} s, a step {costs.step:.2g} "
            f"s and an evaluation {costs.evaluation:.2g} s; set minutes to at least {math.ceil(needed / 6.0) / 10:g}"
        )
    affordable = int(left * SAFETY * run.evaluation_share / max(costs.evaluation, 1e-9))
    number = max(1, min(EVALUATIONS, affordable))
    if run.evaluate_every is not None:  # there are at least this many steps before each evaluation
        interval = run.evaluate_every * costs.step + costs.evaluation
        number = max(1, min(affordable, math.ceil((left - costs.evaluation) / interval)))
    steps = max(1, int((left - number * costs.evaluation) / costs.step))
    return spent.steps + steps, min(number, steps)


def to_json(plan: Plan) -> str:
    """Converts a plan to JSON."""
    return json.dumps(asdict(plan), indent=2) + "\n"


def from_json(text: str) -> Plan:
    """Converts the output of `to_json` back to a plan. Raises ValueError if the text is invalid."""
    return configs.from_dict(Plan, json.loads(text))


def save(plan: Plan, path: Path) -> None:
    """Saves a plan as JSON."""
    atomic.write_text(path, to_json(plan))


def load(path: Path, run: Run, images: int) -> Plan | None:
    """Loads the plan of a run. Returns None if no plan was saved for these settings and number of images.

    Raises ValueError if the file is not a valid plan.
    """
    if not path.exists():
        return None
    try:
        plan = from_json(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not the plan of a run: {error}; remove it to plan the run again") from None
    same = plan.images == images and plan.requested == json.loads(json.dumps(requested(run)))
    return plan if same else None


def seconds_in_log(events: Iterable[JsonDict]) -> float:
    """Returns the total time of all processes of a run in seconds, from the times of log events."""
    total, start, last = 0.0, None, 0.0
    for event in events:
        if event["kind"] in ("start", "resume"):
            total, start = total + (0.0 if start is None else last - start), event["time"]
        last = event["time"]
    return total + (0.0 if start is None else last - start)


def duration(seconds: float) -> str:
    """Formats a duration, such as `45 s`, `3:05 min` or `2:10 h`."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def lines(plan: Plan, step: int = 0) -> list[str]:
    """Formats the plan as lines of text. `step` is the step at which the run starts or resumes."""
    classes = f" of {plan.classes:,} classes" if plan.classes else ""
    images = f"{plan.images:,} training and {plan.validation_images:,} validation images{classes}"
    steps = plan.steps_after(step)
    epochs = steps * plan.batch_size / max(1, plan.images)
    number = "1 evaluation" if plan.evaluations == 1 else f"{plan.evaluations:,} evaluations"
    found = [images, f"{steps:,} steps ({epochs:.3g} epochs) of {plan.batch_size:,} images, {number}"]
    costs = plan.costs
    if costs is None or plan.seconds is None:
        return found
    left = plan.seconds * (1.0 - step / max(1, steps))
    speed = plan.batch_size / max(costs.step, 1e-9)
    text = f"about {left / 60:.2g} minutes at {speed:,.3g} images/s on {costs.device}"
    text += f", {plan.evaluation_share:.0%} of them for evaluations"
    memory = f"; {costs.memory / 1e9:.2g} GB of memory" if costs.memory else ""
    return [*found, text + memory]
