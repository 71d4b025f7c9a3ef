"""Evaluates masked patch prediction: fine-tuning on CIFAR-10 after pre-training and from scratch.

    python benchmarks/masked_pretraining.py --data parquet:/data/cifar10 --out runs/masked

One thread each. The number of pre-training steps is derived from the CPU time of a few trial steps. Writes
`masked-pretraining_<hardware>_<date>.md` in this folder.
"""

import argparse
import json
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from vitkit.bench.machine import describe, short_name
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.processor import Processor
from vitkit.models import vit
from vitkit.objectives import masked, supervised
from vitkit.training import Data, Hardware, Run, train
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

MODEL = vit.Config(
    image_size=(32, 32),
    patch_size=(4, 4),
    width=128,
    depth=6,
    num_heads=4,
    mlp_width=512,
    num_classes=10,
    class_token=False,
    pool="gap",
    init="truncated",
)


def pretraining(data: str, steps: int, target: str) -> Run:
    """Returns pre-training with half of the patches corrupted and their colors predicted (ViT paper, B.1.2)."""
    return Run(
        name="masked patch prediction on CIFAR-10",
        model=MODEL,
        objective=masked.Config(target=target),
        data=Data(source=data),
        processor=Processor.squash(32),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.35, 1.0)), flip=True),
        optimizer=Optimizer(lr=1e-3, weight_decay=0.05),
        schedule=Schedule(warmup=min(200, steps // 4)),
        batch_size=128,
        steps=steps,
        evaluators=("knn",),
        metric="knn.k20",
        evaluate_every=steps,
        select="last",
        precision="bfloat16",
        hardware=Hardware(threads=1, log_every=20),
    )


def finetuning(data: str, steps: int, start: Path | None, seed: int) -> Run:
    """Returns fine-tuning on all images, with the same order and augmentation for every start."""
    return Run(
        name="CIFAR-10 after masked patch prediction" if start else "CIFAR-10 from scratch",
        model=MODEL,
        objective=supervised.Config(),
        data=Data(source=data),
        processor=Processor.squash(32),
        augment=Augment(crop=Crop(kind="simple", padding=4), flip=True),
        optimizer=Optimizer(lr=1e-3, weight_decay=0.05),
        schedule=Schedule(warmup=100),
        batch_size=128,
        steps=steps,
        seed=seed,
        init_from=None if start is None else str(start),
        evaluate_every=steps,
        select="last",
        precision="bfloat16",
        hardware=Hardware(threads=1, log_every=20),
    )


def timed(run: Run, folder: Path) -> tuple[float, float]:
    """Trains a run; returns its score and CPU minutes."""
    before = time.process_time()
    score = train(run, folder).score
    return score, (time.process_time() - before) / 60


def trial_minutes(data: str, steps: int, target: str, out: Path) -> float:
    """Returns the CPU minutes of a short pre-training with a fast evaluation."""
    run = replace(pretraining(data, steps, target), evaluators=("top1",), metric="top1.accuracy")
    return timed(run, out / f"trial-{steps}")[1]


def planned(out: Path, data: str, minutes: float, target: str) -> int:
    """Returns the number of steps in 95 % of the CPU minutes, or that of an interrupted run."""
    config = out / "pretraining" / "config.json"
    if config.exists():
        return json.loads(config.read_text())["steps"]
    trial, longer = (trial_minutes(data, steps, target, out) for steps in (30, 60))
    return int(minutes * 0.95 / ((longer - trial) / 30))


def main() -> None:
    """Pre-trains, fine-tunes twice for each seed, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes of pre-training")
    parser.add_argument("--steps", type=int, default=800, help="steps of each fine-tuning")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--target", default="mean_color", help="prediction target: see vitkit.objectives.masked")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = planned(options.out, options.data, options.minutes, options.target)
    knn, minutes = timed(pretraining(options.data, steps, options.target), options.out / "pretraining")
    rows = []
    for seed in range(options.seeds):
        scratch, took = timed(finetuning(options.data, options.steps, None, seed), options.out / f"scratch-{seed}")
        tuned, _ = timed(
            finetuning(options.data, options.steps, options.out / "pretraining" / "best", seed),
            options.out / f"tuned-{seed}",
        )
        rows.append((seed, scratch, tuned, took))
    hardware = short_name(describe("cpu"))
    lines = [
        f"# Masked patch prediction on CIFAR-10, then fine-tuning ({hardware}, {date.today()})",
        "",
        f"`python benchmarks/masked_pretraining.py --data parquet:CIFAR10 --minutes {options.minutes:g} --steps "
        f"{options.steps} --seeds {options.seeds} --target {options.target}`, one thread, bfloat16 products, "
        f"torch {torch.__version__}.",
        "",
        f"Pre-training: {steps} steps of 128 images, by trial steps {0.95 * options.minutes:.0f} CPU minutes"
        + (f" ({minutes:.1f} in total, with the evaluation)" if minutes > 1 else "")
        + f"; {knn:.2%} accuracy of 20 nearest neighbors.",
        "",
        f"Fine-tuning: {options.steps} steps of 128 images, the same for both starts.",
        "",
        "| seed | from scratch | after pre-training | CPU minutes of one fine-tuning |",
        "|---|---|---|---|",
        *(f"| {seed} | {scratch:.2%} | {tuned:.2%} | {took:.1f} |" for seed, scratch, tuned, took in rows),
        "",
    ]
    name = f"masked-pretraining_{hardware}_{date.today()}.md"
    (Path(__file__).parent / name).write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
