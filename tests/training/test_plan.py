"""A run is planned before its first step: a trial that changes nothing, few evaluations, and a length in minutes."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from slow_cases import slow_except
from test_resume import EVERYTHING, assert_equal, final, history
from two_processes import Job, ends, run_in_two

from vitkit.models import resnet
from vitkit.training import Run, RunFolder, loop, plan, session, summary, train, trial
from vitkit.training.events import Events, read
from vitkit.training.plan import Costs, Spent, make


def costs(step: float = 1.0, evaluation: float = 10.0) -> Costs:
    return Costs(step=step, evaluation=evaluation, memory=0, trial_steps=5, device="cpu")


def quiet(file: io.StringIO | None = None) -> Console:
    return Console(file=file or io.StringIO(), width=200)


def loaded(folder: Path) -> plan.Plan:
    return plan.from_json((folder / "plan.json").read_text())


@dataclass
class Clock:
    """A clock that a training step and an evaluation advance by given seconds; other code takes no time."""

    step: Callable[[int], float]
    evaluation: Callable[[int], float]
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock(lambda step: 1.0, lambda step: 2.0)
    update, evaluate = loop.update, session.TrainingSession._evaluate

    def timed_update(training: Any, batch: Any) -> Any:
        found.time += found.step(training.step)
        return update(training, batch)

    def timed_evaluation(self: Any, *rest: Any) -> None:
        found.time += found.evaluation(self.training.step)
        evaluate(self, *rest)

    monkeypatch.setattr(plan, "now", found)
    monkeypatch.setattr(loop, "update", timed_update)
    monkeypatch.setattr(session.TrainingSession, "_evaluate", timed_evaluation)
    monkeypatch.setattr(trial, "_image_seconds", lambda *_: found.evaluation(0) / 49)
    monkeypatch.setattr(session.TrainingSession, "save", lambda *_, **__: None)  # a checkpoint per step is slow
    return found


def of_minutes(small_run: Callable[..., Run], minutes: float, **changes: Any) -> Run:
    return small_run(steps=None, minutes=minutes, evaluate_every=None, hardware__log_every=1, **changes)


def evaluations(folder: Path) -> list[int]:
    return [event["step"] for event in read(folder / "log.jsonl") if event["kind"] == "evaluation"]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
@pytest.mark.parametrize(("step", "evaluation", "steps"), [(1.0, 1.0, 500), (0.2, 20.0, 500), (1.0, 20.0, 40)])
def test_evaluations_take_at_most_their_share_and_the_last_one_is_whole(
    small_run: Callable[..., Run], share: float, step: float, evaluation: float, steps: int
) -> None:
    run = small_run(steps=steps, evaluate_every=None, evaluation_share=share)
    found = make(run, 191, 49, costs(step, evaluation))
    assert 1 <= found.evaluations <= plan.EVALUATIONS
    assert found.seconds is not None
    assert found.evaluations == 1 or found.evaluations * evaluation <= share * found.seconds
    # One more would be too many, apart from the margin.
    more = (found.evaluations + 1) * evaluation
    assert found.evaluations == plan.EVALUATIONS or more > 0.75 * share * (steps * step + more)


def test_an_interval_of_the_run_is_left_as_it_is(small_run: Callable[..., Run]) -> None:
    found = make(small_run(steps=40, evaluate_every=2), 191, 49, costs(1.0, 100.0))
    assert (found.evaluate_every, found.evaluations) == (2, 20)
    assert make(small_run(steps=9, evaluate_every=None), 191, 49, None).evaluations == 1


@pytest.mark.parametrize("minutes", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("evaluate_every", [None, 1, 1000])
def test_minutes_hold_the_steps_and_evaluations(
    small_run: Callable[..., Run], minutes: float, evaluate_every: int | None
) -> None:
    run = small_run(steps=None, minutes=minutes, evaluate_every=evaluate_every, schedule__warmup=1000)
    found = make(run, 191, 49, costs(0.1, 2.0), Spent(setup=5.0))
    assert found.seconds == pytest.approx(60 * minutes, abs=2.0)
    assert found.evaluations == 1 or found.evaluations * 2.0 <= 0.1 * 60 * minutes
    assert found.warmup == min(1000, int(0.2 * found.steps))
    found.applied(run)


def test_minutes_that_are_too_few_are_rejected(small_run: Callable[..., Run]) -> None:
    run = small_run(steps=None, minutes=0.1)
    with pytest.raises(
        ValueError, match=r"minutes is 0\.1, but the preparation takes 2\.0 s, a step 1 s and an evaluat"
    ):
        make(run, 191, 49, costs(), Spent(setup=2.0))
    with pytest.raises(ValueError, match=r"the run has trained for 5:00 min, .*; set minutes to at least 5\.3"):
        make(run, 191, 49, costs(), Spent(setup=2.0, seconds=300.0, steps=100))


SPEEDS: dict[str, Callable[[int], float]] = {
    "steady": lambda step: 1.0,
    "slower": lambda step: 1.0 if step < 40 else 2.0,
    "faster": lambda step: 1.0 if step < 60 else 0.5,
    "uneven": lambda step: 1.0 + (step % 7 == 0),
}


@pytest.mark.parametrize("speed", slow_except(SPEEDS, "slower"))
def test_a_run_of_minutes_ends_on_time_with_its_schedule(
    small_run: Callable[..., Run], tmp_path: Path, clock: Clock, speed: Callable[[int], float]
) -> None:
    clock.step, began = speed, clock.time
    run = of_minutes(small_run, 2.0, schedule__warmup=1000)
    train(run, tmp_path / "run")
    assert 0.9 <= (clock.time - began) / 120 <= 1.1
    rates = [event["lr"] for event in read(tmp_path / "run" / "log.jsonl") if event["kind"] == "step"]
    assert max(rates) == pytest.approx(run.optimizer.lr, rel=0.05)
    assert rates[-1] < 0.01 * run.optimizer.lr
    found = evaluations(tmp_path / "run")
    assert found[-1] == len(rates)
    assert 2 <= len(found) <= 6
    assert all(later - earlier >= 5 for earlier, later in pairwise(found))


def test_a_resumed_run_of_minutes_repeats_the_revisions(
    small_run: Callable[..., Run], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    clock.time = 0.0
    monkeypatch.setattr(plan, "now", clock)
    monkeypatch.setattr(trial, "measure", lambda *_: costs(1.0, 2.0))
    update = loop.update

    def timed(training: Any, batch: Any) -> Any:
        clock.time += 1.0 if training.step < 15 else 1.5
        return update(training, batch)

    monkeypatch.setattr(loop, "update", timed)
    run = of_minutes(small_run, 0.6, hardware__save_every=4, hardware__keep_checkpoints=100)
    train(run, tmp_path / "once")
    revisions = json.loads((tmp_path / "once" / "plan.json").read_text())["revisions"]
    total = revisions[-1][1]
    assert len({steps for _, steps in revisions}) > 1
    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    for checkpoint in sorted((tmp_path / "twice" / "checkpoints").iterdir())[2:]:
        shutil.rmtree(checkpoint)
    clock.time += 1e6  # a resumed run takes the decisions of its plan, not those of the clock
    clock.step = lambda step: 50.0
    train(run, tmp_path / "twice")
    assert final(tmp_path / "once")["training"]["step"] == total
    assert_equal(final(tmp_path / "twice"), final(tmp_path / "once"))
    assert history(tmp_path / "twice") == history(tmp_path / "once")


CASES: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "momentum": {"optimizer__name": "sgd", "hardware__workers": 2},
    "lora": {"tuning__lora_rank": 2, "ema": 0.5},
}


@pytest.mark.parametrize("case", slow_except(CASES, "everything"))
def test_a_trial_changes_no_bit(small_run: Callable[..., Run], tmp_path: Path, case: dict[str, Any]) -> None:
    run = small_run(**case)
    train(run, tmp_path / "without")
    train(run, tmp_path / "with", console=quiet())
    assert loaded(tmp_path / "without").costs is None
    assert loaded(tmp_path / "with").costs is not None
    assert_equal(final(tmp_path / "with"), final(tmp_path / "without"))
    assert history(tmp_path / "with") == history(tmp_path / "without")


@pytest.mark.slow
def test_a_trial_does_not_change_batch_statistics(small_run: Callable[..., Run], tmp_path: Path) -> None:
    config = replace(resnet.TINY, image_size=(16, 16), stem_width=4, widths=(8, 12), num_classes=10)
    run = small_run(schedule__warmup=0)
    run = replace(run, model=config, processor=replace(run.processor, size=(16, 16)))
    train(run, tmp_path / "without")
    train(run, tmp_path / "with", console=quiet())
    assert_equal(final(tmp_path / "with"), final(tmp_path / "without"))


def test_the_plan_is_printed_logged_and_saved_before_the_first_step(
    small_run: Callable[..., Run], tmp_path: Path
) -> None:
    output = io.StringIO()
    train(small_run(steps=20, evaluate_every=None), tmp_path / "run", console=quiet(output))
    lines = output.getvalue().splitlines()
    assert lines[0] == "191 training and 49 validation images of 10 classes"
    assert lines[1].startswith("20 steps (2.93 epochs) of 28 images, ")
    assert lines[2].startswith("about ")
    assert " images/s on cpu (1 thread), " in lines[2]
    assert lines[2].endswith(" GB of memory")
    events = read(tmp_path / "run" / "log.jsonl")
    assert [event["kind"] for event in events[:2]] == ["start", "plan"]
    logged, saved = events[1], json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (logged["images"], logged["validation_images"], logged["classes"], logged["total"]) == (191, 49, 10, 20)
    assert logged["minutes"] > 0
    assert logged["memory_gb"] > 0
    assert saved["steps"] == 20
    assert len(evaluations(tmp_path / "run")) == logged["evaluations"]
    # The same command makes no other plan.
    before = (tmp_path / "run" / "plan.json").read_bytes()
    train(small_run(steps=20, evaluate_every=None), tmp_path / "run", console=quiet())
    assert (tmp_path / "run" / "plan.json").read_bytes() == before


def test_the_report_has_the_predictions_of_the_evaluation_that_saved_the_model(
    small_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(summary, "evaluate_saved", None)
        train(small_run(precision="bfloat16", ema=0.9), tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_text()
    summary.write_report(RunFolder(tmp_path / "run"))
    assert (tmp_path / "run" / "report.html").read_text() == report


def test_progress_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(plan, "now", lambda: now[0])
    monkeypatch.setattr("vitkit.training.events.time.monotonic", lambda: now[0])
    output = io.StringIO()
    with Events(tmp_path / "log", total=400, batch_size=32, every=10, console=quiet(output)) as events:
        for step in range(1, 401):
            now[0] += 0.5
            events.step(step, {"loss": 0.5})
    lines = output.getvalue().splitlines()
    assert lines[0] == "step     10 of 400   loss 0.500   64 images/s   3:15 min left"
    assert [int(line.split()[1]) for line in lines] == [10, 30, 70, 150, 270, 390]
    kinds = {tuple(event) for event in read(tmp_path / "log")}
    assert all(names[:3] == ("kind", "step", "time") and names[3] == "images_per_second" for names in kinds)


def test_a_broken_plan_is_one_sentence(small_run: Callable[..., Run], tmp_path: Path) -> None:
    train(small_run(steps=2, schedule__warmup=0), tmp_path / "run")
    (tmp_path / "run" / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is not the plan of a run: .*; remove it to plan the run again"):
        train(small_run(steps=2, schedule__warmup=0), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation_share": 1.0}, "evaluation_share is 1.0; it must be at least 0 and below 1"),
        ({"evaluation_share": -0.1}, "evaluation_share is -0.1"),
        ({"minutes": 3}, "set either steps or epochs or minutes, not several; steps is 12 and minutes is 3"),
        ({"steps": None, "minutes": 0}, "minutes is 0.0; it must be above 0"),
        ({"steps": None}, "not several; none of them is set"),
        ({"steps": None, "minutes": float("nan")}, "minutes is nan"),
    ],
)
def test_invalid_settings(small_run: Callable[..., Run], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_run(**changes)


def test_seconds_in_a_log() -> None:
    log = [("start", 10.0), ("step", 12.0), ("step", 15.0), ("resume", 100.0), ("step", 103.0), ("evaluation", 104.0)]
    assert plan.seconds_in_log({"kind": kind, "time": time} for kind, time in log) == 9.0
    assert plan.seconds_in_log([]) == 0.0
    assert [plan.duration(each) for each in (0.2, 59, 61, 600, 7200)] == [
        "1 s",
        "59 s",
        "1:01 min",
        "10:00 min",
        "2:00 h",
    ]


def test_a_large_batch_is_rejected_by_its_memory(small_run: Callable[..., Run], tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", fails)
        for console in (None, quiet()):  # in the first step, and in the trial
            with pytest.raises(
                session.TrainingStopped, match=r"a batch of 28 images does not fit into the memory of cpu"
            ):
                train(small_run(), tmp_path / "run", console=console)
            assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_one_plan(small_run: Callable[..., Run], tmp_path: Path, parallel: str) -> None:
    settings = {"hardware__parallel": parallel, "evaluate_every": None, "ema": 0.9}
    jobs = [
        Job(small_run(steps=14, **settings), tmp_path / "steps"),
        Job(small_run(steps=None, minutes=0.15, **settings), tmp_path / "minutes"),
        Job(small_run(steps=14, hardware__parallel=parallel, evaluate_every=14, ema=0.9), tmp_path / "without trial"),
    ]
    run_in_two(jobs, tmp_path / "scratch")
    assert [end.error for job in jobs for end in ends(job.folder)] == [""] * 6
    found = loaded(tmp_path / "minutes")
    last = final(tmp_path / "minutes")["training"]["step"]
    assert last == found.steps_after(last)
    assert evaluations(tmp_path / "minutes")[-1] == last
    assert loaded(tmp_path / "steps").costs is not None
    states = [final(tmp_path / name)["training"] for name in ("steps", "without trial")]
    assert_equal(*states)
