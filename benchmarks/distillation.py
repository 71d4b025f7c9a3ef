"""Does a teacher help a small student? The same student on the same photos, taught by DeiT-Tiny and by labels alone.

    python benchmarks/distillation.py --teacher deit_tiny_patch16_224/ --data folder:flowers --out runs/distillation

The teacher keeps its own classes (ImageNet's): what it says of a photo is learned by a head aside, which is dropped at
the end. For every seed two runs with equal steps, batches, rates and augmentation, one thread each. Writes
`distillation_<hardware>_<date>.md` beside this file.
"""

import argparse
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from pretraining import trained_for
from torch import Tensor

from vitkit import checkpoints
from vitkit.bench import machine
from vitkit.data import Source, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.processor import IMAGENET_MEAN, IMAGENET_STD, Processor
from vitkit.objectives import supervised
from vitkit.recipes import recipe
from vitkit.train import Data, Machine, Run
from vitkit.train.events import read
from vitkit.train.schedule import Schedule

HERE = Path(__file__).parent
TIMES = 10  # that a run is judged


@dataclass(frozen=True)
class Row:
    """One trained student: accuracies on the way, and, of each photo held out, whether it is right and the loss."""

    taught: bool
    seed: int
    cpu_minutes: float
    before: tuple[float, ...]
    right: Tensor
    loss: Tensor


def main() -> None:
    """Makes the teacher, trains the students, writes the report."""
    options = parsed()
    torch.set_num_threads(1)
    training, held_out = train_and_val(options.data)
    folder = options.out / f"{Path(options.teacher).name}-{options.teacher_size}"
    teacher(options, folder)
    rows = []
    for seed in range(options.seeds):
        for taught in (False, True):
            run = student(options, training, folder if taught else None, seed)
            out = options.out / f"{'taught' if taught else 'alone'}-{seed}"
            seconds = trained_for(run, out)
            rows.append(Row(taught, seed, seconds / 60, on_the_way(out), *judged(out / "best", held_out)))
            print(f"{out.name}: {rows[-1].right.mean():.1%}, {seconds / 60:.1f} CPU minutes", flush=True)
    report(options, rows, student(options, training, None, 0))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", required=True, help="a checkpoint of other classes, such as ImageNet's")
    parser.add_argument("--data", required=True, help="photos as a source")
    parser.add_argument("--out", type=Path, required=True, help="where the runs go; those that were stopped go on")
    parser.add_argument("--size", type=int, default=96, help="pixels a side of the student's pictures")
    parser.add_argument("--teacher-size", type=int, default=128, help="what they are blown up to for the teacher")
    parser.add_argument("--epochs", type=float, default=200.0)
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


def teacher(options: argparse.Namespace, folder: Path) -> None:
    """Writes the teacher for the size that it sees the photos in."""
    if not folder.exists():
        checkpoints.save(checkpoints.load(options.teacher, image_size=options.teacher_size), folder)


def student(options: argparse.Namespace, training: Source, taught_by: Path | None, seed: int) -> Run:
    """The recipe, or the same student without its teacher."""
    run = recipe("distillation.flowers_student")
    steps = max(1, round(options.epochs * len(training) / run.batch_size))
    size, classes = (options.size, options.size), len(training.classes)
    objective = supervised.Config(label_smoothing=run.objective.label_smoothing)
    if taught_by is not None:
        objective = replace(run.objective, teacher=str(taught_by))
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
        evaluate_every=max(1, steps // TIMES),
        machine=Machine(threads=1, save_every=100),
    )


def on_the_way(run: Path) -> tuple[float, ...]:
    """What the run's log says of the photos held out, each time that they were judged before the end."""
    return tuple(event["top1.accuracy"] for event in read(run / "log.jsonl") if event["kind"] == "evaluation")[:-1]


@torch.inference_mode()
def judged(folder: Path, photos: Source) -> tuple[Tensor, Tensor]:
    """Whether each photo is classified rightly, 1 or 0, and its cross-entropy in nats."""
    loaded = checkpoints.load(folder)
    batches = list(evaluation_batches(photos, Transform(loaded.processor), batch_size=100))
    logits, targets = (
        torch.cat([loaded.model(each.images) for each in batches]),
        torch.cat([b.targets for b in batches]),
    )
    right = (logits.argmax(dim=1) == targets.argmax(dim=1)).float()
    return right, F.cross_entropy(logits, targets, reduction="none")


def gain(rows: list[Row], name: str) -> tuple[float, float]:
    """Taught minus alone in the mean over seeds and photos, and its standard error over photos."""
    taught, alone = (
        torch.stack([getattr(row, name) for row in rows if row.taught is kind]).mean(dim=0) for kind in (True, False)
    )
    return (taught - alone).mean().item(), (taught - alone).std().item() / len(taught) ** 0.5


def report(options: argparse.Namespace, rows: list[Row], run: Run) -> None:
    """Writes the table."""
    found, taught = machine.describe("cpu"), recipe("distillation.flowers_student").objective
    stem = f"distillation_{machine.short_name(found)}_{date.today().isoformat()}"
    lines = [
        "# A small student of DeiT-Tiny on flowers, taught and alone",
        "",
        f"{machine.summary(found)}, by `benchmarks/distillation.py`.",
        f"Photos of {options.size} pixels; the teacher, with ImageNet's classes, sees them blown up to "
        f"{options.teacher_size}. {taught.alpha:.0%} of the loss is its answer, at temperature {taught.temperature:g}.",
        f"Every run: {run.steps} steps of {run.batch_size}, {options.epochs:g} epochs, one thread; the last model.",
        "",
        "| student | seed | accuracy | cross-entropy | CPU minutes | accuracy on the way |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.taught, row.seed)):
        name, before = "taught" if row.taught else "alone", " ".join(f"{each:.1%}" for each in row.before)
        scores = f"{row.right.mean():.1%} | {row.loss.mean():.3f}"
        lines.append(f"| {name} | {row.seed} | {scores} | {row.cpu_minutes:.1f} | {before} |")
    (points, about), (nats, near) = gain(rows, "correct"), gain(rows, "loss")
    lines.append(
        f"| **taught, not alone** | mean | **{points:+.1%}** ± {about:.1%} | **{nats:+.3f}** ± {near:.3f} | | |"
    )
    lines += ["", f"± is the standard error over the {len(rows[0].right)} photos that both were asked of."]
    (HERE / f"{stem}.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
