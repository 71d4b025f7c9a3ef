"""Interleaved rounds: order, failures and interrupts with fake workers, then with processes."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitkit.bench import Candidate, Job, Plan
from vitkit.bench.rounds import Failed, Worker, environment, run_rounds

JOB = Job(kind="inference", task="inference", model="fake", batch=4, threads=1)
QUICK = Plan(rounds=3, seconds=0.0, warm_up=1, pause=0.0, timeout=30.0)
FAKE = "bench_fake_peer"


def candidate(name: str, **settings: str) -> Candidate:
    return Candidate(peer=name, settings=tuple(settings.items()), module=FAKE)


class FakeWorker:
    """A worker with given rates that records its turns."""

    def __init__(self, name: str, turns: list[str], seconds: list[float] | None = None, fails: str = ""):
        self.name, self.turns, self.fails = name, turns, fails
        self.seconds = iter(seconds or [1.0] * 100)
        self.stopped = 0

    def request(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        self.turns.append(f"{message['do']} {self.name}")
        if self.fails == "interrupt" and self.turns.count(f"round {self.name}") == 3:
            raise KeyboardInterrupt
        if self.fails == message["do"]:
            raise Failed("it failed")
        if message["do"] == "prepare":
            return {"notes": {}, "seconds": 0.1}
        return {"seconds": next(self.seconds), "items": 8, "calls": 2, "cpu_seconds": 0.5, "peak_bytes": 100}

    def send(self, message: dict[str, Any]) -> None:
        self.turns.append(f"send {self.name}")
        self.message = message

    def response(self, timeout: float) -> dict[str, Any]:
        return self.request(self.message, timeout)

    def stop(self) -> None:
        self.stopped += 1


def test_candidates_take_turns_and_warm_up_is_not_measured() -> None:
    turns: list[str] = []
    workers = {name: FakeWorker(name, turns, [100.0, 1.0, 2.0, 4.0]) for name in "AB"}
    found = run_rounds(JOB, [candidate("A"), candidate("B")], QUICK, lambda each: workers[each.peer])
    assert turns == ["send A", "prepare A", "send B", "prepare B"] + ["round A", "round B"] * 4
    assert [result.rates for result in found.results] == [[8.0, 4.0, 2.0]] * 2
    assert found.results[0].peak_bytes == 100
    assert not found.interrupted
    assert all(worker.stopped for worker in workers.values())


def test_several_candidates_are_prepared_at_the_same_time() -> None:
    turns: list[str] = []
    workers = {name: FakeWorker(name, turns, fails="prepare" if name == "B" else "") for name in "ABC"}
    plan = replace(QUICK, preparing=2, rounds=1, warm_up=0)
    found = run_rounds(JOB, [candidate(name) for name in "ABC"], plan, lambda each: workers[each.peer])
    assert turns == ["send A", "send B", "prepare A", "prepare B", "send C", "prepare C", "round A", "round C"]
    assert [result.failure for result in found.results] == ["", "it failed", ""]


@pytest.mark.parametrize("when", ["prepare", "round"])
def test_failed_candidate_is_skipped_and_others_continue(when: str) -> None:
    turns: list[str] = []
    workers = {"A": FakeWorker("A", turns, fails=when), "B": FakeWorker("B", turns)}
    found = run_rounds(JOB, [candidate("A"), candidate("B")], QUICK, lambda each: workers[each.peer])
    assert "it failed" in found.results[0].failure
    assert not found.results[0].rates
    assert len(found.results[1].rates) == 3
    assert turns.count("round A") == (1 if when == "round" else 0)


def test_interrupt_returns_the_measured_rounds() -> None:
    turns: list[str] = []
    workers = {"A": FakeWorker("A", turns), "B": FakeWorker("B", turns, fails="interrupt")}
    found = run_rounds(JOB, [candidate("A"), candidate("B")], QUICK, lambda each: workers[each.peer])
    assert found.interrupted
    assert [len(result.rates) for result in found.results] == [2, 1]
    assert all(worker.stopped for worker in workers.values())


def start(each: Candidate) -> Worker:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return Worker({**environment(1, "cpu"), "PYTHONPATH": path})


def test_processes_are_measured_and_failures_have_reasons() -> None:
    candidates = [
        candidate("good", sleep="0.02"),
        candidate("slow", sleep="0.06"),
        candidate("fails", failure="fail"),
        candidate("dies", failure="kill"),
        candidate("leaves", failure="exit"),
        candidate("exhausted", failure="memory"),
    ]
    results = {result.candidate.peer: result for result in run_rounds(JOB, candidates, QUICK, start).results}
    assert len(results["good"].rates) == len(results["slow"].rates) == 3
    # 4 images in at least 20 ms; a busy machine is slower.
    assert all(rate <= 200.0 for rate in results["good"].rates)
    assert all(rate <= 67.0 for rate in results["slow"].rates)
    assert results["good"].peak_bytes > 2**20
    np.testing.assert_array_equal(results["good"].outputs, np.full((2, 3), 1.5, np.float32))
    assert results["fails"].failure == "ValueError: no such thing"
    assert results["dies"].failure == "in round 1: ended by SIGKILL, most likely out of memory"
    assert results["leaves"].failure.startswith("in round 1: exit code 3")
    assert results["exhausted"].failure == "in round 1: MemoryError"


def test_candidate_that_hangs_fails_after_the_timeout() -> None:
    begin = time.monotonic()
    plan = Plan(rounds=1, seconds=0.0, warm_up=0, pause=0.0, timeout=2.0)
    (result,) = run_rounds(JOB, [candidate("hangs", failure="hang")], plan, start).results
    assert result.failure == "the process did not respond within 2 s"
    assert time.monotonic() - begin < 60


def test_timeout_counts_from_the_request() -> None:
    begin = time.monotonic()
    plan = Plan(rounds=1, seconds=0.0, warm_up=0, pause=0.0, timeout=2.0, preparing=3)
    results = run_rounds(
        JOB, [candidate("hangs", failure="hang", number=str(number)) for number in range(3)], plan, start
    ).results
    assert [result.failure for result in results] == ["the process did not respond within 2 s"] * 3
    assert time.monotonic() - begin < 60


def test_worker_of_a_cpu_job_has_no_gpu() -> None:
    assert environment(3, "cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert environment(3, "cpu")["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("given", [{"rounds": 0}, {"seconds": -1.0}, {"warm_up": -1}, {"preparing": 0}])
def test_invalid_plan_is_rejected(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        Plan(**given)


def test_jobs_and_candidates_round_trip_through_json() -> None:
    job = Job(kind="data", task="data", model="", batch=1, threads=2, images=("a.jpg",), shape={"width": 3})
    assert Job.from_dict(job.to_dict()) == job
    each = candidate("A", compile="default")
    assert Candidate.from_dict(each.to_dict()) == each
    assert each.name == "A compile=default"
