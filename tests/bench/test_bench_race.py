"""The race: whose turn it is, what becomes of those that fail, and what an interrupt leaves; then real processes."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitkit.bench import Contender, Job, Plan
from vitkit.bench.race import Failed, Worker, environment, race

JOB = Job(kind="inference", task="inference", model="fake", batch=4, threads=1)
QUICK = Plan(rounds=3, seconds=0.0, warm_up=1, pause=0.0, patience=30.0)
FAKE = "bench_fake_peer"


def contender(name: str, **settings: str) -> Contender:
    return Contender(peer=name, settings=tuple(settings.items()), module=FAKE)


class FakeWorker:
    """Takes no time: its rates are those it is given, its turns are written down."""

    def __init__(self, name: str, turns: list[str], seconds: list[float] | None = None, fails: str = ""):
        self.name, self.turns, self.fails = name, turns, fails
        self.seconds = iter(seconds or [1.0] * 100)
        self.stopped = 0

    def ask(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        self.turns.append(f"{request['do']} {self.name}")
        if self.fails == "interrupt" and self.turns.count(f"round {self.name}") == 3:
            raise KeyboardInterrupt
        if self.fails == request["do"]:
            raise Failed("it fell over")
        if request["do"] == "prepare":
            return {"notes": {}, "seconds": 0.1}
        return {"seconds": next(self.seconds), "items": 8, "calls": 2, "cpu_seconds": 0.5, "peak_bytes": 100}

    def send(self, request: dict[str, Any]) -> None:
        self.turns.append(f"send {self.name}")
        self.request = request

    def answer(self, patience: float) -> dict[str, Any]:
        return self.ask(self.request, patience)

    def stop(self) -> None:
        self.stopped += 1


def test_contenders_take_turns_and_warm_up_does_not_count() -> None:
    turns: list[str] = []
    workers = {name: FakeWorker(name, turns, [100.0, 1.0, 2.0, 4.0]) for name in "AB"}
    found = race(JOB, [contender("A"), contender("B")], QUICK, lambda each: workers[each.peer])
    assert turns == ["send A", "prepare A", "send B", "prepare B"] + ["round A", "round B"] * 4
    assert [lap.rates for lap in found.laps] == [[8.0, 4.0, 2.0]] * 2
    assert found.laps[0].peak_bytes == 100
    assert not found.interrupted
    assert all(worker.stopped for worker in workers.values())


def test_several_are_prepared_at_the_same_time() -> None:
    turns: list[str] = []
    workers = {name: FakeWorker(name, turns, fails="prepare" if name == "B" else "") for name in "ABC"}
    plan = replace(QUICK, preparing=2, rounds=1, warm_up=0)
    found = race(JOB, [contender(name) for name in "ABC"], plan, lambda each: workers[each.peer])
    assert turns == ["send A", "send B", "prepare A", "prepare B", "send C", "prepare C", "round A", "round C"]
    assert [lap.failure for lap in found.laps] == ["", "it fell over", ""]


@pytest.mark.parametrize("when", ["prepare", "round"])
def test_one_that_fails_stays_out_and_the_others_go_on(when: str) -> None:
    turns: list[str] = []
    workers = {"A": FakeWorker("A", turns, fails=when), "B": FakeWorker("B", turns)}
    found = race(JOB, [contender("A"), contender("B")], QUICK, lambda each: workers[each.peer])
    assert "it fell over" in found.laps[0].failure
    assert not found.laps[0].rates
    assert len(found.laps[1].rates) == 3
    assert turns.count("round A") == (1 if when == "round" else 0)


def test_an_interrupt_leaves_the_rounds_that_were_run() -> None:
    turns: list[str] = []
    workers = {"A": FakeWorker("A", turns), "B": FakeWorker("B", turns, fails="interrupt")}
    found = race(JOB, [contender("A"), contender("B")], QUICK, lambda each: workers[each.peer])
    assert found.interrupted
    assert [len(lap.rates) for lap in found.laps] == [2, 1]
    assert all(worker.stopped for worker in workers.values())


def start(each: Contender) -> Worker:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return Worker({**environment(1, "cpu"), "PYTHONPATH": path})


def test_processes_of_their_own_are_measured_and_their_failures_are_reasons() -> None:
    contenders = [
        contender("good", sleep="0.02"),
        contender("slow", sleep="0.06"),
        contender("fails", does="fail"),
        contender("dies", does="die"),
        contender("leaves", does="leave"),
        contender("exhausted", does="exhaust"),
    ]
    laps = {lap.contender.peer: lap for lap in race(JOB, contenders, QUICK, start).laps}
    assert len(laps["good"].rates) == len(laps["slow"].rates) == 3
    # 4 images in 20 ms at most; a busy machine makes it fewer.
    assert all(rate <= 200.0 for rate in laps["good"].rates)
    assert all(rate <= 67.0 for rate in laps["slow"].rates)
    assert laps["good"].peak_bytes > 2**20
    np.testing.assert_array_equal(laps["good"].outputs, np.full((2, 3), 1.5, np.float32))
    assert laps["fails"].failure == "ValueError: no such thing"
    assert laps["dies"].failure == "in round 1: ended by SIGKILL, most likely out of memory"
    assert laps["leaves"].failure.startswith("in round 1: exit code 3")
    assert laps["exhausted"].failure == "in round 1: MemoryError"


def test_one_that_hangs_has_failed_when_patience_ends() -> None:
    begin = time.monotonic()
    plan = Plan(rounds=1, seconds=0.0, warm_up=0, pause=0.0, patience=2.0)
    (lap,) = race(JOB, [contender("hangs", does="hang")], plan, start).laps
    assert lap.failure == "no answer in 2 s"
    assert time.monotonic() - begin < 60


def test_patience_counts_from_the_request_also_for_several() -> None:
    begin = time.monotonic()
    plan = Plan(rounds=1, seconds=0.0, warm_up=0, pause=0.0, patience=2.0, preparing=3)
    laps = race(JOB, [contender("hangs", does="hang", number=str(number)) for number in range(3)], plan, start).laps
    assert [lap.failure for lap in laps] == ["no answer in 2 s"] * 3
    assert time.monotonic() - begin < 60


def test_a_worker_sees_no_gpu_where_the_job_is_the_cpus() -> None:
    assert environment(3, "cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert environment(3, "cpu")["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("given", [{"rounds": 0}, {"seconds": -1.0}, {"warm_up": -1}, {"preparing": 0}])
def test_a_plan_that_measures_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        Plan(**given)


def test_jobs_and_contenders_survive_the_pipe() -> None:
    job = Job(kind="data", task="data", model="", batch=1, threads=2, photos=("a.jpg",), shape={"width": 3})
    assert Job.from_dict(job.to_dict()) == job
    each = contender("A", compile="default")
    assert Contender.from_dict(each.to_dict()) == each
    assert each.name == "A compile=default"
