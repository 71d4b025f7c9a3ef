"""Where the time of a network goes: the operations of one forward pass, or of one step of training, by their own time.

    python benchmarks/profile_network.py --model vit-b/16 --batch 8
    python benchmarks/profile_network.py --model vit-b/16 --batch 128 --device cuda --train

Prints a table, largest first, and writes it to `profile-<inference or training>-<model>_<hardware>_<date>.md` beside
this file with `--write`. Our own kernels for CPUs are called past torch in inference, and are then part of "the rest".
"""

import argparse
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from vitkit import models
from vitkit.bench import machine
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.inference import Predictor
from vitkit.objectives import supervised
from vitkit.train import Data, Machine, Run, loop, setup

HERE = Path(__file__).parent
SHOWN = 16  # operations
ENDLESS = 10**9  # steps


def main() -> None:
    """Profiles and prints."""
    options = parsed()
    device = torch.device(options.device)
    run = training(options, device) if options.train else inference(options, device)
    for _ in range(3):
        run()
    wait(device)
    start = time.perf_counter()
    for _ in range(options.rounds):
        run()
    wait(device)
    seconds = (time.perf_counter() - start) / options.rounds
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        for _ in range(options.rounds):
            run()
        wait(device)
    rows = table(found.key_averages(), device, options.rounds, seconds)
    report(options, device, seconds, rows)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit-b/16", help="a preset")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="a step of training in place of a forward pass")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--write", action="store_true", help="also write the page")
    return parser.parse_args()


def inference(options: argparse.Namespace, device: torch.device) -> Callable[[], Any]:
    """A forward pass of what `Predictor` runs."""
    torch.manual_seed(0)
    model = models.build(models.preset(options.model)).eval()
    predictor = Predictor(
        model,
        Processor.squash(model.config.image_size[0]),
        precision=options.precision,
        device=options.device,
        batch_size=options.batch,
        compile=options.compile,
    )
    network, dtype = predictor.model, predictor.dtype
    images = torch.randn(options.batch, 3, *model.config.image_size, device=device, dtype=dtype)

    def run() -> Any:
        with torch.inference_mode():
            return network(images)

    return run


def training(options: argparse.Namespace, device: torch.device) -> Callable[[], Any]:
    """An update of the one loop."""
    config = models.preset(options.model)
    run = Run(
        name="profile",
        model=config,
        objective=supervised.Config(),
        data=Data(source="none"),
        processor=Processor.squash(config.image_size[0]),
        batch_size=options.batch,
        precision=options.precision,
        steps=1,
        machine=Machine(device=options.device, compile=options.compile),
    )
    state = setup.begin(run, ENDLESS, device)
    state.objective.train()
    classes = torch.eye(config.num_classes)[torch.arange(options.batch) % config.num_classes]
    images = torch.randn(options.batch, 3, *config.image_size)
    batch = Batch(images, classes, ("noise",) * options.batch).to(device)
    kept = setup.machine(run, device)
    kept.__enter__()  # until the process ends

    def once() -> Any:
        state.step += 1
        return loop.update(state, batch)

    return once


def table(events: Any, device: torch.device, rounds: int, seconds: float) -> list[tuple[str, int, float, float]]:
    """Name, calls, milliseconds and share of a round, largest first; last what no operation of torch accounts for."""
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = [(event.key, event.count // rounds, getattr(event, own) / 1e3 / rounds) for event in events]
    rows = sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])
    shown, whole = rows[:SHOWN], seconds * 1e3
    rest = max(0.0, whole - sum(row[2] for row in shown))
    return [(name, calls, spent, spent / whole) for name, calls, spent in [*shown, ("the rest", 0, rest)]]


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(
    options: argparse.Namespace, device: torch.device, seconds: float, rows: list[tuple[str, int, float, float]]
) -> None:
    """The table for people."""
    found = machine.describe(options.device)
    what = "training" if options.train else "inference"
    how = f"{options.precision}{', compiled' if options.compile else ''}"
    lines = [
        f"# Where the time of {what} goes: {options.model}, batch {options.batch}, {how}",
        "",
        f"{machine.summary(found)}, {date.today().isoformat()}, by `benchmarks/profile_network.py`; "
        f"{seconds * 1e3:.1f} ms a round, {options.batch / seconds:.1f} images/s.",
        "",
        "| operation | calls | ms | share |",
        "|---|---|---|---|",
        *(f"| {name} | {calls or ''} | {spent:.2f} | {share:.1%} |" for name, calls, spent, share in rows),
        "",
    ]
    print("\n".join(lines))
    if options.write:
        stem = f"profile-{what}-{options.model.replace('/', '-')}_{machine.short_name(found)}_{date.today()}"
        (HERE / f"{stem}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
