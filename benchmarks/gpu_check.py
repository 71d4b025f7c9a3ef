"""Checks vitkit on a machine with an NVIDIA GPU; `scripts/gpu_check.sh` runs it with a time limit.

Standard library only. Every step of `gpu_steps.py` is a separate process with a time limit. If a step fails or runs out
of time, it is reported, the others continue, and the exit status is 1. The page and the JSON are written after each
step, so that they exist also if the check is killed.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import gpu_environment
import gpu_page
import gpu_steps
from gpu_steps import PARTS, Step

ROOT = Path(__file__).resolve().parent.parent
MIN_SECONDS = 25.0  # a step with less time left is not started
GRACE = 15.0  # seconds between the interrupt and the kill of a step, at the end of its time
MARGIN = 5.0  # seconds of the total time, for the page and the cleanup


@dataclass(kw_only=True)
class Result:
    """Outcome of a step (passed, failed, out of time or not started) and the reason."""

    part: str
    name: str
    command: str = ""
    outcome: str = "not started"
    reason: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    log: str = ""


class Stopped(Exception):  # noqa: N818 - the total time is over
    """SIGTERM: the results are written, and the check ends."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen parts; returns 0 if all passed, 1 if one failed, 2 if nothing can run."""
    options = parsed(arguments)
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, stop)
    # Started in the background by a shell, interrupts are ignored, and child processes would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    try:
        variables, facts = gpu_environment.prepare(work, options.device, ("pytest", "beartype"))
        steps = gpu_steps.steps(options, facts, work)
        print(f"environment ready after {time.monotonic() - begin:.0f} s; {len(steps)} steps", flush=True)
        facts |= {"options": vars(options) | {"out": str(options.out)}, "seconds_to_prepare": time.monotonic() - begin}
        results = [Result(part=step.part, name=step.name) for step in steps]
        try:
            run_all(steps, results, begin + options.limit - MARGIN, variables, facts, options.out, work)
        except (Stopped, KeyboardInterrupt):
            facts["stopped"] = True
        page = gpu_page.write(options.out, facts, [asdict(result) for result in results], time.monotonic() - begin)
    except gpu_environment.Unusable as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"see {page}")
    return int(any(result.outcome != "passed" for result in results))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="gpu_check.sh", description="Check vitkit on a machine with an NVIDIA GPU: tests, speed, a recipe."
    )
    parser.add_argument("part", nargs="?", default="all", choices=(*PARTS, "all"), help="what to run (all)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to test every step")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of the page (benchmarks/)")
    parser.add_argument("--limit", type=float, default=540.0, help="seconds for everything (540; LIMIT in the shell)")
    options = parser.parse_args(arguments)
    if options.limit < 2 * MIN_SECONDS:
        parser.error(f"--limit is {options.limit:g} seconds; it must be at least {2 * MIN_SECONDS:g}")
    return options


def stop(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM."""
    raise Stopped


def run_all(
    steps: list[Step],
    results: list[Result],
    end: float,
    variables: dict[str, str],
    facts: dict[str, Any],
    out: Path,
    work: Path,
) -> None:
    """Runs the steps in order. They get fractions of the time; unused time is left to later steps."""
    start = time.monotonic()
    total, used = sum(step.weight for step in steps), 0.0
    for step, result in zip(steps, results, strict=True):
        used += step.weight
        run_step(step, result, start + (end - start) * used / total, variables, work)
        print(f"{result.outcome:12} {step.part}: {step.name} ({result.seconds:.0f} s) {result.reason}", flush=True)
        gpu_page.write(out, facts, [asdict(each) for each in results], time.monotonic() - start)


def run_step(step: Step, result: Result, deadline: float, variables: dict[str, str], work: Path) -> None:
    """Runs a step; at its deadline it is interrupted, and killed a few seconds later."""
    begin = time.monotonic()
    result.limit = deadline - begin
    if result.limit < MIN_SECONDS:
        result.reason = f"{max(0.0, result.limit):.0f} s were left and it needs at least {MIN_SECONDS:.0f}"
        return
    # Timeout of the candidates of a benchmark: the time that the rest of the step does not need.
    timeout = max(MIN_SECONDS, result.limit - step.rest)
    command = [word.replace("TIMEOUT", f"{timeout:.0f}") for word in step.command]
    result.command = relative(shlex.join(command).replace(sys.executable, "python3"), work)
    log = work / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=variables, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code, in_time = wait(process, result.limit)
        finally:
            kill(process)
    result.seconds = time.monotonic() - begin
    result.log = relative(log.read_text(errors="replace")[-200_000:], work)
    try:
        result.found, reasons = step.read(result.log)
    except (OSError, ValueError, KeyError, IndexError) as error:
        result.found, reasons = {}, [f"no result: {gpu_environment.last_line(result.log)} ({type(error).__name__})"]
    if code and in_time and not reasons:
        reasons = [f"exit status {code}: {gpu_environment.last_line(result.log)}"]
    if not in_time:
        reasons.insert(0, f"stopped after {result.limit:.0f} s")
    result.outcome = "out of time" if not in_time else "failed" if reasons else "passed"
    result.reason = "; ".join(reasons)


def relative(text: str, work: Path) -> str:
    """Returns a text without local folders."""
    return text.replace(f"{work}/", "").replace(f"{ROOT}/", "")


def wait(process: subprocess.Popen[bytes], limit: float) -> tuple[int, bool]:
    """Returns the exit status, and whether the process ended in time."""
    try:
        return process.wait(limit - GRACE), True
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # `vitkit bench` then writes what was measured
    try:
        return process.wait(GRACE), False
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL, False


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
