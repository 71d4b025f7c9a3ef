"""Profiles the operations of a forward pass or a training step.

    python benchmarks/profile_network.py --model vit-b/16 --batch 8
    python benchmarks/profile_network.py --model vit-b/16 --batch 128 --device cuda --train

Prints a table, slowest first; `--write` writes it to `profile-<inference or training>-<model>_<hardware>_<date>.md` in
this folder. vitkit's own CPU kernels are not torch operations and are part of "other".
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
from vitkit.training import Data, Hardware, Run, loop, setup

HERE = Path(__file__).parent
SHOWN = 16  # rows
ENDLESS = 10**9  # steps


def main() -> None:
    """Profiles and prints the table."""
    options = parse_arguments()
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


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit-b/16", help="architecture")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", action="store_true", help="profile a training step instead of a forward pass")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--write", action="store_true", help="also write the page")
    return parser.parse_args()


def inference(options: argparse.Namespace, device: torch.device) -> Callable[[], Any]:
    """Returns a forward pass of the model in `Predictor`."""
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
    """Returns an update of the training loop."""
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
        hardware=Hardware(device=options.device, compile=options.compile),
    )
    training = setup.build_training(run, ENDLESS, device)
    training.objective.train()
    classes = torch.eye(config.num_classes)[torch.arange(options.batch) % config.num_classes]
    images = torch.randn(options.batch, 3, *config.image_size)
    batch = Batch(images, classes, ("noise",) * options.batch).to(device)
    settings = setup.process_settings(run, device)
    settings.__enter__()  # until the process ends

    def once() -> Any:
        training.step += 1
        return loop.update(training, batch)

    return once


def table(events: Any, device: torch.device, rounds: int, seconds: float) -> list[tuple[str, int, float, float]]:
    """Returns name, calls, milliseconds and fraction of a round per operation, slowest first; the rest is last."""
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = [(event.key, event.count // rounds, getattr(event, own) / 1e3 / rounds) for event in events]
    rows = sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])
    shown, total = rows[:SHOWN], seconds * 1e3
    rest = max(0.0, total - sum(row[2] for row in shown))
    return [(name, calls, spent, spent / total) for name, calls, spent in [*shown, ("other", 0, rest)]]


def wait(device: torch.device) -> None:
    """Waits until all kernels on a GPU are complete."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(
    options: argparse.Namespace, device: torch.device, seconds: float, rows: list[tuple[str, int, float, float]]
) -> None:
    """Prints the page, and writes it with --write."""
    found = machine.describe(options.device)
    kind = "training" if options.train else "inference"
    settings = f"{options.precision}{', compiled' if options.compile else ''}"
    lines = [
        f"# Profile of {kind}: {options.model}, batch {options.batch}, {settings}",
        "",
        f"{machine.summary(found)}, {date.today().isoformat()}, by `benchmarks/profile_network.py`; "
        f"{seconds * 1e3:.1f} ms per round, {options.batch / seconds:.1f} images/s.",
        "",
        "| operation | calls | ms | fraction |",
        "|---|---|---|---|",
        *(f"| {name} | {calls or ''} | {spent:.2f} | {fraction:.1%} |" for name, calls, spent, fraction in rows),
        "",
    ]
    print("\n".join(lines))
    if options.write:
        stem = f"profile-{kind}-{options.model.replace('/', '-')}_{machine.short_name(found)}_{date.today()}"
        (HERE / f"{stem}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
