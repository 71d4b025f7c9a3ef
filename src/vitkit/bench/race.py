"""A B A B: contenders in processes of their own, one round each in turn, until all rounds are run."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitkit.bench import Contender, Job, Plan
from vitkit.bench.process import Failed


class Asked(Protocol):
    """What the race wants of a worker."""

    def ask(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        """The answer to a request, or `Failed`."""
        ...

    def send(self, request: dict[str, Any]) -> None:
        """Sends a request without waiting for its answer; raises `Failed` if the process has ended."""
        ...

    def answer(self, patience: float) -> dict[str, Any]:
        """The answer to the request that was sent, or `Failed`."""
        ...

    def stop(self) -> None:
        """Ends it."""
        ...


@dataclass(kw_only=True)
class Lap:
    """What became of one contender: its rates in items a second, one a round that counts, or why there are none."""

    contender: Contender
    rates: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    seconds_to_prepare: float = 0.0
    cpu_share: list[float] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    outputs: np.ndarray | None = None
    failure: str = ""


@dataclass(kw_only=True)
class Laps:
    """The laps of all contenders, in their order, and whether somebody ended the race early."""

    laps: list[Lap]
    interrupted: bool = False


def race(
    job: Job,
    contenders: Sequence[Contender],
    plan: Plan,
    start: Callable[[Contender], Asked],
    say: Callable[[str], None] = lambda text: None,
) -> Laps:
    """Prepares every contender, `plan.preparing` at the same time, then lets them run their rounds in turn.

    One that fails stays out of the rest and the others go on; an interrupt ends the race with the rounds it has.
    """
    found = Laps(laps=[Lap(contender=contender) for contender in contenders])
    workers: dict[int, Asked] = {}
    try:
        numbered = list(enumerate(found.laps))
        for first in range(0, len(numbered), plan.preparing):
            group = numbered[first : first + plan.preparing]
            say(f"preparing {', '.join(lap.contender.name for _, lap in group)}")
            _prepare(job, group, plan, lambda number, lap: workers.setdefault(number, start(lap.contender)))
        for count in range(plan.warm_up + plan.rounds):
            counts = count >= plan.warm_up
            for number, lap in enumerate(found.laps):
                if not lap.failure:
                    what = f"round {count - plan.warm_up + 1}/{plan.rounds}" if counts else "warm-up"
                    say(f"{what}: {lap.contender.name}")
                    time.sleep(plan.pause)
                    _round(lap, workers[number], plan, counts)
    except KeyboardInterrupt:
        found.interrupted = True
        for lap in found.laps:
            if not lap.rates and not lap.failure:
                lap.failure = "interrupted before its first round"
    finally:
        for worker in workers.values():
            worker.stop()
    return found


def _prepare(job: Job, group: Sequence[tuple[int, Lap]], plan: Plan, start: Callable[[int, Lap], Asked]) -> None:
    """Starts the workers of a group and waits until all are prepared."""
    with tempfile.TemporaryDirectory(prefix="vitkit-bench-") as folder:
        sent: list[tuple[Lap, Asked, Path]] = []
        for number, lap in group:
            outputs = Path(folder) / f"{number}.npy"
            contender = lap.contender.to_dict()
            request = {"do": "prepare", "job": job.to_dict(), "contender": contender, "outputs": str(outputs)}
            worker = start(number, lap)
            try:
                worker.send(request)
            except Failed as failure:
                lap.failure = str(failure)
            else:
                sent.append((lap, worker, outputs))
        for lap, worker, outputs in sent:
            try:
                answer = worker.answer(plan.patience)
            except Failed as failure:
                lap.failure = str(failure)
                continue
            lap.notes, lap.seconds_to_prepare = answer["notes"], answer["seconds"]
            if outputs.exists():
                lap.outputs = np.load(outputs, allow_pickle=False)


def _round(lap: Lap, worker: Asked, plan: Plan, counts: bool) -> None:
    try:
        answer = worker.ask({"do": "round", "seconds": plan.seconds}, plan.patience + plan.seconds)
    except Failed as failure:
        # What it did before stands in the record, but a library that falls over is not measured by its good rounds.
        lap.failure = f"in round {len(lap.rates) + 1}: {failure}"
        worker.stop()
        return
    if counts:
        lap.rates.append(answer["items"] / answer["seconds"])
        lap.cpu_share.append(answer["cpu_seconds"] / answer["seconds"])
    lap.peak_bytes = max(lap.peak_bytes, answer["peak_bytes"])
