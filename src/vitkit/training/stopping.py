"""Early stopping: ends a run whose metric has not improved for a number of evaluations."""

from collections.abc import Iterable

from vitkit import distributed
from vitkit.config import JsonDict
from vitkit.training.run import Run


class EarlyStopping:
    """Early stopping, which counts the evaluations since the metric of a run improved by more than `min_delta`.

    The count is a function of the evaluations in the log, so that a resumed run stops at the same step as an
    uninterrupted one, and a larger `patience` lets a stopped run continue.
    """

    def __init__(self, run: Run):
        self.run = run
        self.best = float("-inf")
        self.stale = 0  # evaluations since the last improvement
        self.step = -1  # step of the last evaluation

    def add(self, step: int, value: float) -> None:
        """Updates the count with the metric of an evaluation. The same evaluation is not counted twice."""
        if step <= self.step:
            return
        self.step = step
        improved = value > self.best + self.run.min_delta
        self.stale = 0 if improved else self.stale + 1
        self.best = value if improved else self.best

    def restore(self, events: Iterable[JsonDict]) -> None:
        """Restores the count from the log of rank 0. All processes must call this."""
        for event in events:
            if event["kind"] == "evaluation" and self.run.metric in event:
                self.add(event["step"], event[self.run.metric])
        self.best = distributed.broadcast(self.best)
        self.stale, self.step = round(distributed.broadcast(self.stale)), round(distributed.broadcast(self.step))

    @property
    def exhausted(self) -> bool:
        """Whether the metric has not improved for `patience` evaluations, so that the run must stop."""
        return self.run.patience is not None and self.stale >= self.run.patience

    @property
    def reason(self) -> str:
        """The reason for early stopping, as text for the log."""
        least = f" by more than {self.run.min_delta:g}" if self.run.min_delta else ""
        evaluations = f"{self.stale} evaluation{'s' * (self.stale != 1)}"
        return f"stopped early at step {self.step}: {self.run.metric} has not improved{least} for {evaluations}"
