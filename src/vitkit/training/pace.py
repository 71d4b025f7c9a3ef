"""Adapts the number of steps of a run with a length in minutes to its measured speed.

A trial of a few seconds cannot predict the speed of a machine for the next ten minutes. Therefore, the number of steps
is revised at regular intervals: the remaining time is divided by the time per step since the last revision. The
learning rate schedule then ends at the new number of steps. Each revision is saved in the plan before it takes effect,
so that a resumed run repeats it at the same step.
"""

from collections.abc import Callable
from pathlib import Path

from vitkit import distributed
from vitkit.training import plan as plans
from vitkit.training.plan import CLOSING, REVISIONS, Plan


class Pace:
    """Measures the time of a run, and computes the number of steps that fit into the remaining time.

    `started` is the time at which this process began to prepare the run. `before` is the training time of earlier
    processes in seconds. `minutes` is the length of the run, or None for a run with a fixed number of steps.
    """

    def __init__(self, plan: Plan, path: Path, *, minutes: float | None, started: float, before: float = 0.0):
        self.plan = plan
        self.path = path
        self.minutes = minutes
        self.started = started
        self.before = before
        self.every = max(1, plan.steps // REVISIONS)
        self.evaluation = plan.costs.evaluation if plan.costs else 0.0  # seconds of the last evaluation
        self.evaluating = 0.0  # seconds of all evaluations of this process
        self.mark: tuple[int, float] | None = None  # step and training time of the last revision

    @property
    def elapsed(self) -> float:
        """Time of the run so far in seconds, including earlier processes."""
        return self.before + plans.now() - self.started

    def timed(self, evaluate: Callable[[], None]) -> None:
        """Calls `evaluate` and measures its time."""
        start = plans.now()
        evaluate()
        self.evaluation = plans.now() - start
        self.evaluating += self.evaluation

    def total(self, step: int, total: int) -> int:
        """Returns the total number of steps, revised after training step `step`. All processes must call this."""
        if self.minutes is None or step % self.every or step >= total:
            return total
        if distributed.is_main_process():
            saved = dict(self.plan.revisions).get(step)
            found = self._fitted(step, total) if saved is None else saved
            if saved is None:
                self.plan = self.plan.revised(step, found)
                plans.save(self.plan, self.path)
            self.mark = (step, plans.now() - self.evaluating)
            total = found
        return round(distributed.broadcast(float(total)))

    def begin(self, step: int) -> None:
        """Starts the measurement of the training speed at a step."""
        self.mark = (step, plans.now() - self.evaluating)

    def _fitted(self, step: int, total: int) -> int:
        """Returns the total number of steps that fit into `minutes`, at the speed since the last revision."""
        assert self.minutes is not None
        if self.mark is None or self.mark[0] >= step:
            return total
        seconds = (plans.now() - self.evaluating - self.mark[1]) / (step - self.mark[0])
        every = self.plan.evaluate_every
        evaluations = 1 + sum(total - each >= every / 2 for each in range(step - step % every + every, total, every))
        left = 60.0 * self.minutes - self.elapsed - CLOSING - evaluations * self.evaluation
        return step + max(1, round(left / max(seconds, 1e-9)))

    def remaining(self, step: int, total: int, speed: float) -> float:
        """Returns the seconds until the end of the run, or 0.0 if `speed`, in images per second, is 0 (unknown)."""
        if not speed:
            return 0.0
        every = self.plan.evaluate_every
        evaluations = max(1, -(-total // every) - step // every)
        return (total - step) * self.plan.batch_size / speed + evaluations * self.evaluation
