"""Evaluates distillation: a small student trained with DeiT-Tiny as teacher and with labels only.

    python benchmarks/distillation.py --teacher deit_tiny_patch16_224/ --data folder:flowers --out runs/distillation

The teacher has its own classes (ImageNet's): the student learns its predictions with an additional head, which is
removed at the end. For every seed there are two runs with equal steps, batches, learning rates and augmentation, one
thread each. Writes `distillation_<hardware>_<date>.md` in this folder.
"""

import argparse
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from pretraining import train_timed
from torch import Tensor

from vitkit import checkpoints
from vitkit.bench import machine
from vitkit.data import Source, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.objectives import supervised
from vitkit.recipes import recipe
from vitkit.training import Data, Hardware, Run
from vitkit.training.events import read
from vitkit.training.schedule import Schedule

HERE = Path(__file__).parent
EVALUATIONS = 10  # per run


@dataclass(frozen=True)
class Row:
    """A trained student: accuracies during training, and correctness and loss of each validation image."""

    distilled: bool
    seed: int
    cpu_minutes: float
    earlier: tuple[float, ...]
    correct: Tensor
    loss: Tensor


def main() -> None:
    """Writes the teacher, trains the students, and writes the report."""
    options = parse_arguments()
    torch.set_num_threads(1)
    training, validation = train_and_val(options.data)
    folder = options.out / f"{Path(options.teacher).name}-{options.teacher_size}"
    teacher(options, folder)
    rows = []
    for seed in range(options.seeds):
        for distilled in (False, True):
            run = student(options, training, folder if distilled else None, seed)
            out = options.out / f"{'distilled' if distilled else 'labels'}-{seed}"
            seconds = train_timed(run, out)
            rows.append(
                Row(distilled, seed, seconds / 60, earlier_accuracies(out), *evaluate(out / "best", validation))
            )
            print(f"{out.name}: {rows[-1].correct.mean():.1%}, {seconds / 60:.1f} CPU minutes", flush=True)
    report(options, rows, student(options, training, None, 0))


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", required=True, help="checkpoint of the teacher, with any classes")
    parser.add_argument("--data", required=True, help="data source")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; interrupted runs are resumed")
    parser.add_argument("--size", type=int, default=96, help="image size of the student")
    parser.add_argument("--teacher-size", type=int, default=128, help="image size of the teacher")
    parser.add_argument("--epochs", type=float, default=200.0)
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


def teacher(options: argparse.Namespace, folder: Path) -> None:
    """Writes the teacher for its image size."""
    if not folder.exists():
        checkpoints.save(checkpoints.load(options.teacher, image_size=options.teacher_size), folder)


def student(options: argparse.Namespace, training: Source, teacher_folder: Path | None, seed: int) -> Run:
    """Returns the recipe, or the same student without a teacher."""
    run = recipe("distillation.flowers_student")
    steps = max(1, round(options.epochs * len(training) / run.batch_size))
    size, classes = (options.size, options.size), len(training.classes)
    objective = supervised.Config(label_smoothing=run.objective.label_smoothing)
    if teacher_folder is not None:
        objective = replace(run.objective, teacher=str(teacher_folder))
    return replace(
        run,
        model=replace(run.model, image_size=size, num_classes=classes),
        processor=Processor.crop(options.size, 0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        objective=objective,
        data=Data(source=options.data),
        schedule=Schedule(warmup=steps // 10),
        steps=steps,
        epochs=None,
        seed=seed,
        evaluate_every=max(1, steps // EVALUATIONS),
        hardware=Hardware(threads=1, save_every=100),
    )


def earlier_accuracies(run: Path) -> tuple[float, ...]:
    """Returns the validation accuracies of a run before the last one."""
    return tuple(event["top1.accuracy"] for event in read(run / "log.jsonl") if event["kind"] == "evaluation")[:-1]


@torch.inference_mode()
def evaluate(folder: Path, images: Source) -> tuple[Tensor, Tensor]:
    """Returns for each image whether its prediction is correct (1 or 0), and the cross-entropy in nats."""
    loaded = checkpoints.load(folder)
    batches = list(evaluation_batches(images, Transform(loaded.processor), batch_size=100))
    logits, targets = (
        torch.cat([loaded.model(each.images) for each in batches]),
        torch.cat([b.targets for b in batches]),
    )
    correct = (logits.argmax(dim=1) == targets.argmax(dim=1)).float()
    return correct, F.cross_entropy(logits, targets, reduction="none")


def gain(rows: list[Row], name: str) -> tuple[float, float]:
    """Returns the mean difference of distilled and labels only, and its standard error over images."""
    distilled, labels = (
        torch.stack([getattr(row, name) for row in rows if row.distilled is kind]).mean(dim=0) for kind in (True, False)
    )
    return (distilled - labels).mean().item(), (distilled - labels).std().item() / len(distilled) ** 0.5


def report(options: argparse.Namespace, rows: list[Row], run: Run) -> None:
    """Writes the page."""
    found, objective = machine.describe("cpu"), recipe("distillation.flowers_student").objective
    stem = f"distillation_{machine.short_name(found)}_{date.today().isoformat()}"
    lines = [
        "# A small student of DeiT-Tiny on flowers, distilled and with labels only",
        "",
        f"{machine.summary(found)}, by `benchmarks/distillation.py`.",
        f"Images of {options.size} pixels, resized to {options.teacher_size} for the teacher, which has ImageNet's "
        f"classes. {objective.alpha:.0%} of the loss is distillation, at temperature {objective.temperature:g}.",
        f"Every run: {run.steps} steps of {run.batch_size}, {options.epochs:g} epochs, one thread; the last model.",
        "",
        "| student | seed | accuracy | cross-entropy | CPU minutes | accuracy during training |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.distilled, row.seed)):
        name, earlier = "distilled" if row.distilled else "labels only", " ".join(f"{each:.1%}" for each in row.earlier)
        scores = f"{row.correct.mean():.1%} | {row.loss.mean():.3f}"
        lines.append(f"| {name} | {row.seed} | {scores} | {row.cpu_minutes:.1f} | {earlier} |")
    (points, points_error), (nats, nats_error) = gain(rows, "correct"), gain(rows, "loss")
    lines.append(
        f"| **difference** | mean | **{points:+.1%}** ± {points_error:.1%} | **{nats:+.3f}** ± {nats_error:.3f} | | |"
    )
    lines += ["", f"± is the standard error over the {len(rows[0].correct)} validation images."]
    (HERE / f"{stem}.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
