"""Measures the overhead of the training loop over a minimal loop.

    python benchmarks/loop_overhead.py [ROUNDS]

Both loops train the same model on the same batches with bitwise equal losses, in interleaved blocks of a few steps and
one thread. The time includes everything between two evaluations: updates, checks, log and progress bar. CPU time is
measured too, because the machine may be shared. Prints a table and writes it to
benchmarks/loop-overhead_<hardware>_<date>.md.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch
from torch import nn

from vitkit.data import train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, training_batches
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.training import Data, Hardware, Run, RunFolder
from vitkit.training.checkpointing.saving import CheckpointSaver
from vitkit.training.events import Events
from vitkit.training.loop import fit, step_seed
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule, factor
from vitkit.training.session import StopRequest, TrainingSession
from vitkit.training.setup import build_training

BLOCK, BATCH = 5, 8


def model(width: int) -> vit.Config:
    """Returns a model with four blocks and 64 tokens; a narrow one has little computation per tensor."""
    return vit.Config(
        image_size=(32, 32),
        patch_size=(4, 4),
        width=width,
        depth=4,
        num_heads=width // 16,
        mlp_width=4 * width,
        num_classes=10,
        dropout=0.1,
    )


@dataclass
class Clock:
    """Seconds per step of each block of steps, wall time and CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def block(self, action: Callable[[], None]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        self.wall.append((time.perf_counter() - wall) / BLOCK)
        self.cpu.append((time.process_time() - cpu) / BLOCK)


def run_of(width: int, rounds: int) -> Run:
    return Run(
        name="overhead",
        model=model(width),
        objective=supervised.Config(),
        data=Data(source="digits"),
        processor=Processor.squash(32),
        optimizer=Optimizer(lr=1e-3),
        schedule=Schedule(warmup=BLOCK),
        batch_size=BATCH,
        steps=(rounds + 1) * BLOCK,
        evaluate_every=10**9,
        hardware=Hardware(device="cpu", save_every=10**9, log_every=10),
    )


def batches(run: Run) -> Iterator[Batch]:
    source, _ = train_and_val(run.data.source, held_out=run.data.held_out)
    return training_batches(source, Transform(run.processor, run.augment), Stream(batch_size=run.batch_size))


def minimal_loop(run: Run, losses: list[float]) -> Callable[[], None]:
    """Returns a function that runs five steps of a minimal loop, with the same model and optimizer."""
    made, stream = build_training(run, run.steps or 0, torch.device("cpu")), batches(run)
    objective, optimizer, parameters = made.objective, made.optimizer, list(made.objective.parameters())
    objective.train()

    def block() -> None:
        for _ in range(BLOCK):
            step, batch = len(losses), next(stream)
            torch.manual_seed(step_seed(run.seed, step, 0))
            for group in optimizer.param_groups:
                group["lr"] = run.optimizer.lr * factor(run.schedule, step, run.steps or 0)
            optimizer.zero_grad()
            loss = objective(batch)["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())

    return block


def measure(width: int, rounds: int) -> tuple[Clock, Clock]:
    run, loop, minimal = run_of(width, rounds), Clock(), Clock()
    training = build_training(run, run.steps or 0, torch.device("cpu"))
    losses: list[float] = []
    expected: list[float] = []
    block_of_minimal, stream = minimal_loop(run, expected), batches(run)
    source, validation = train_and_val(run.data.source, held_out=run.data.held_out)
    with tempfile.TemporaryDirectory() as name, CheckpointSaver(Path(name) / "checkpoints", run.hardware) as saver:
        session = TrainingSession(training, RunFolder(Path(name)), validation, saver)
        log = Path(name) / "log.jsonl"
        with Events(log, total=training.total, batch_size=BATCH, every=10) as events, StopRequest() as stop:
            after = session.after_step(events, stop, source)

            def once(scalars: dict[str, float], batch: Batch) -> bool:
                losses.append(scalars["loss"])
                # The last step would be evaluated and saved.
                return (training.step < training.total and after(scalars, batch)) or training.step % BLOCK == 0

            for number in range(rounds + 1):
                pair = [(loop, lambda: fit(training, stream, once)), (minimal, block_of_minimal)]
                for clock, block in pair if number % 2 else reversed(pair):
                    # The first block is warm-up; in it the loop counts the operations of the first step.
                    (clock if number else Clock()).block(block)
    assert losses == expected, "the losses of the loops differ"
    return loop, minimal


def rows(width: int, rounds: int) -> str:
    """Returns the lines of the table for a model width."""
    clocks, lines = measure(width, rounds), []
    for name in ("cpu", "wall"):
        a, b = (getattr(clock, name) for clock in clocks)
        one, two = (statistics.median(each) * 1e3 for each in (a, b))
        more = statistics.median(first - second for first, second in zip(a, b, strict=True)) * 1e3
        lines.append(f"| {width} | {rounds} | {name} | {one:.2f} | {two:.2f} | {more:+.3f} | {more / two:+.2%} |\n")
    return "".join(lines)


def hardware() -> str:
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model name")), "cpu")


def main(rounds: int = 40) -> None:
    torch.set_num_threads(1)
    text = "| width | blocks | time per step | loop, ms | minimal, ms | median difference, ms | relative |\n"
    text += "|---|---|---|---|---|---|---|\n" + rows(192, rounds) + rows(16, 5 * rounds)
    print(text)
    name = "-".join("".join(c if c.isalnum() else " " for c in hardware().lower()).split())
    page = Path(__file__).with_name(f"loop-overhead_{name}_{date.today().isoformat()}.md")
    page.write_text(
        f"# Overhead of the training loop over a minimal loop\n\n`python benchmarks/loop_overhead.py {rounds}`: "
        f"ViT of depth 4 on 64 tokens, batches of {BATCH}, interleaved blocks of {BLOCK} steps, one thread of "
        f"{hardware()}, torch "
        f"{torch.__version__}; load at the end {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores. The losses are "
        f"bitwise equal in all steps. The narrow model has as many tensors and little computation: its "
        f"difference in ms is the cost of the loop itself.\n\n{text}"
    )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
