"""Does a teacher help a small student? The same student on the same photos, taught by DeiT-Tiny and by labels alone.

    python benchmarks/distillation.py --teacher deit_tiny_patch16_224/ --data folder:flowers --out runs/distillation

The teacher gets a head for the classes at hand first: logistic regression on its frozen representations, the strength
of its penalty chosen on a fifth of the training photos, all of them as coarse as the student's and blown up to the
teacher's size. Then, for every seed, two runs with equal steps, batches, rates and augmentation, one thread each.
Writes `distillation_<hardware>_<date>.md` beside this file.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitkit import checkpoints
from vitkit.bench import machine
from vitkit.data import Source, train_and_val
from vitkit.data.augment import Augment, Transform
from vitkit.data.crop import Crop
from vitkit.data.loader import Batch, evaluation_batches
from vitkit.data.processor import Processor
from vitkit.data.processor.processor import IMAGENET_MEAN, IMAGENET_STD
from vitkit.evaluate import Subject, probe, right
from vitkit.models import vit
from vitkit.objectives import distillation, supervised
from vitkit.train import Data, Machine, Run, train
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One trained student."""

    taught: bool
    seed: int
    accuracy: float
    cpu_minutes: float


def main() -> None:
    """Makes the teacher, trains the students, writes the report."""
    options = parsed()
    torch.set_num_threads(1)
    training, judged = train_and_val(options.data)
    folder = options.out / "teacher"
    accuracy = teacher(options, training, judged, folder)
    print(f"teacher {accuracy:.2%}", flush=True)
    rows = []
    for seed in range(options.seeds):
        for taught in (False, True):
            run = student(options, training, folder if taught else None, seed)
            start = time.process_time()
            result = train(run, options.out / f"{'taught' if taught else 'alone'}-{seed}")
            rows.append(Row(taught, seed, result.score, (time.process_time() - start) / 60))
            print(rows[-1], flush=True)
    report(options, accuracy, rows, student(options, training, None, 0))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", required=True, help="a checkpoint of other classes, such as ImageNet's")
    parser.add_argument("--data", required=True, help="photos as a source")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go; those that were stopped go on")
    parser.add_argument("--size", type=int, default=96, help="pixels a side of the student's pictures")
    parser.add_argument("--teacher-size", type=int, default=160, help="what they are blown up to for the teacher")
    parser.add_argument("--epochs", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


def teacher(options: argparse.Namespace, training: Source, judged: Source, folder: Path) -> float:
    """Writes the teacher with its new head; its accuracy."""
    if folder.exists():
        loaded = checkpoints.load(folder)
    else:
        loaded = checkpoints.load(options.teacher, image_size=options.teacher_size, num_classes=len(training.classes))
    transform = Transform(student(options, training, None, 0).processor)

    def seen(source: Source) -> Iterator[Batch]:
        for batch in evaluation_batches(source, transform, batch_size=50):
            size = (options.teacher_size, options.teacher_size)
            yield replace(batch, images=F.interpolate(batch.images, size=size, mode="bicubic", antialias=True))

    subject = Subject(loaded.model, lambda: seen(judged), training.classes, training=lambda: seen(training))
    if not folder.exists():
        put_head(subject)
        checkpoints.save(replace(loaded, labels=training.classes), folder)
        del subject.__dict__["_judged"]  # what it saw with the old head
    found = subject.predictions
    return right(found.logits.argmax(dim=1), found.targets)


def put_head(subject: Subject) -> None:
    """Fits a linear probe, and writes it into the model's head."""
    learnt, held = subject.training_representations, subject.representations
    mean, deviation = learnt.vectors.double().mean(dim=0), learnt.vectors.double().std(dim=0).clamp_min(1e-6)
    x, labels, classes = (learnt.vectors.double() - mean) / deviation, learnt.labels, held.targets.shape[1]
    kept, rest = probe.split(labels)
    tried = probe.path(x[kept], labels[kept], classes)
    scores = [right(each(x[rest]).argmax(dim=1), learnt.targets[rest]) for each in tried]
    best = probe.path(x, labels, classes, probe.STRENGTHS[: scores.index(max(scores)) + 1])[-1]
    head = subject.model.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        weight = best.weight / deviation
        head.weight.copy_(weight)
        head.bias.copy_(best.bias - weight @ mean)


def student(options: argparse.Namespace, training: Source, taught_by: Path | None, seed: int) -> Run:
    """A ViT of 0.8 M parameters; 90 % of its loss is the teacher's softened answer, where it has one."""
    model = vit.Config(
        image_size=(options.size, options.size),
        patch_size=(16, 16),
        width=128,
        depth=4,
        num_heads=4,
        mlp_width=512,
        num_classes=len(training.classes),
        class_token=False,
        pool="gap",
        init="truncated",
    )
    steps = max(1, round(options.epochs * len(training) / 64))
    objective: Any = supervised.Config(label_smoothing=0.1)
    if taught_by is not None:
        objective = distillation.Config(teacher=str(taught_by), kind="soft", alpha=0.9, temperature=3.0)
    return Run(
        name="distillation",
        model=model,
        objective=objective,
        data=Data(source=options.data),
        processor=Processor.crop(options.size, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=Augment(crop=Crop(kind="torchvision", area=(0.3, 1.0)), flip=True),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.05),
        schedule=Schedule(warmup=steps // 10),
        batch_size=64,
        steps=steps,
        seed=seed,
        precision="bfloat16",
        evaluators=("top1",),
        evaluate_every=steps,
        keep="last",
        machine=Machine(threads=1, save_every=100),
    )


def report(options: argparse.Namespace, accuracy: float, rows: list[Row], run: Run) -> None:
    """Writes the table."""
    found = machine.describe("cpu")
    stem = f"distillation_{machine.short_name(found)}_{date.today().isoformat()}"
    lines = [
        "# A small student of DeiT-Tiny on flowers, taught and alone",
        "",
        f"{machine.words(found)}, by `benchmarks/distillation.py`.",
        f"Photos of {options.size} pixels; the teacher, with a fitted head, sees them blown up to "
        f"{options.teacher_size}: {accuracy:.1%}.",
        f"Every run: {run.steps} steps of {run.batch_size}, {options.epochs:g} epochs, one thread; the last model.",
        "",
        "| student | seed | accuracy | CPU minutes |",
        "|---|---|---|---|",
    ]
    for row in rows:
        name = "taught" if row.taught else "alone"
        lines.append(f"| {name} | {row.seed} | {row.accuracy:.1%} | {row.cpu_minutes:.1f} |")
    for taught in (False, True):
        scores = [row.accuracy for row in rows if row.taught == taught]
        lines.append(f"| **{'taught' if taught else 'alone'}** | mean | **{sum(scores) / len(scores):.1%}** | |")
    (HERE / f"{stem}.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
