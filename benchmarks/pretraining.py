"""Evaluates self-supervised pre-training on CIFAR-10: loss, and k-NN accuracy against the untrained model.

    python benchmarks/pretraining.py dino --data parquet:/data/cifar10

Trains the recipe `pretraining.dino_cifar10` (masked, simmim, beit, mae, dino) on one thread, then classifies test
images by their 20 nearest training images with three kinds of features: those of the trained model, those of the
untrained model, and raw pixels. `pooled` features are the input of the head, `map` features the concatenated patch
tokens, which have positions, as raw pixels do. Adds the objective to `pretraining_<hardware>_<date>.md` in this folder,
with the loss curves in the .png and all numbers in the .json file.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit import checkpoints, models, objectives
from vitkit.bench import machine
from vitkit.config import override
from vitkit.data import Source, Subset, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.loader import evaluation_batches
from vitkit.data.processor import Processor
from vitkit.evaluation import accuracy
from vitkit.evaluation.knn import neighbors, vote
from vitkit.recipes import recipe
from vitkit.training import Run, train
from vitkit.training.events import read

HERE = Path(__file__).parent
MONITORS = ("accuracy", "words", "entropy", "kl", "rank", "grad_norm")


def main() -> None:
    """Trains, evaluates and writes the report."""
    options = parse_arguments()
    run = configure(options)
    torch.set_num_threads(1)
    training, validation = train_and_val(run.data.source)
    gallery, queries = part(training, options.gallery), part(validation, options.queries)
    seconds = train_timed(run, options.out)
    log = [event for event in read(options.out / "log.jsonl") if event["kind"] == "step"]
    trained = checkpoints.load(options.out / "best").model
    accuracies = {"pixels": nearest(gallery, queries, run.processor, lambda images: images.flatten(1))}
    for name, features in (("pooled", pooled), ("map", mapped)):
        accuracies[name] = nearest(gallery, queries, run.processor, partial(features, trained.eval()))
        accuracies[f"untrained_{name}"] = nearest(
            gallery, queries, run.processor, partial(features, untrained(run).eval())
        )
    result = {
        "steps": run.steps,
        "batch_size": run.batch_size,
        "cpu_minutes": seconds / 60,
        "parameters": sum(each.numel() for each in trained.parameters()),
        "gallery": len(gallery),
        "queries": len(queries),
        "knn": accuracies,
        "curve": [{key: event[key] for key in ("step", "loss", *MONITORS) if key in event} for event in log],
    }
    print(json.dumps({key: value for key, value in result.items() if key != "curve"}))
    report(options.objective, result)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("objective", help="masked, simmim, beit, mae or dino")
    parser.add_argument("--data", required=True, help="CIFAR-10 as a source")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run is resumed")
    parser.add_argument("--steps", type=int, help="number of steps (default: that of the recipe)")
    parser.add_argument("--gallery", type=int, default=10_000, help="number of training images for k-NN")
    parser.add_argument("--queries", type=int, default=2_000, help="number of test images to classify")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="a field of the run")
    return parser.parse_args()


def configure(options: argparse.Namespace) -> Run:
    """Returns the recipe with the changes of the command line, without evaluation during training."""
    run = recipe(f"pretraining.{options.objective}_cifar10")
    changes: dict[str, Any] = {"data.source": options.data, "hardware.threads": 1, "hardware.log_every": 10}
    changes |= {"evaluators": ("flops",), "metric": "flops.giga", "precision": run.precision}
    if options.steps:
        changes |= {"steps": options.steps, "schedule.warmup": min(run.schedule.warmup, options.steps // 10)}
    for each in options.set:
        name, _, value = each.partition("=")
        changes[name] = json.loads(value)
    run = override(run, changes)
    return override(run, {"evaluate_every": run.steps})


def part(source: Source, most: int) -> Source:
    """Returns randomly sampled images with a fixed seed: a source may be sorted by class."""
    if most >= len(source):
        return source
    return Subset(source, np.random.default_rng(0).permutation(len(source))[:most])


def untrained(run: Run) -> models.Backbone:
    """Returns the model of a run before the first step."""
    torch.manual_seed(run.seed)
    return objectives.build(run.objective, models.build(run.model)).backbone


def train_timed(run: Run, folder: Path) -> float:
    """Trains to the end; returns the CPU time in seconds, including that of interrupted runs."""
    saved, start = folder / "cpu-seconds.json", time.process_time()
    before = json.loads(saved.read_text()) if saved.exists() else 0.0
    try:
        train(run, folder)
    finally:
        seconds = before + time.process_time() - start
        saved.write_text(json.dumps(seconds))
    return seconds


def pooled(model: models.Backbone, images: Tensor) -> Tensor:
    """Returns the input of the head."""
    return model.represent(model.features(images))


def mapped(model: models.Backbone, images: Tensor) -> Tensor:
    """Returns the concatenated patch tokens."""
    return model.features(images).patches.flatten(1)


def nearest(gallery: Source, queries: Source, processor: Processor, features: Callable[[Tensor], Tensor]) -> float:
    """Returns the accuracy of 20 nearest neighbors."""

    def extract(source: Source) -> tuple[Tensor, Tensor]:
        rows, targets = [], []
        with torch.inference_mode():
            for batch in evaluation_batches(source, Transform(processor), batch_size=250):
                rows.append(features(batch.images).float())
                targets.append(batch.targets)
        return torch.cat(rows), torch.cat(targets)

    (keys, labels), (vectors, truth) = extract(gallery), extract(queries)
    similar, classes = neighbors(vectors, keys, labels.argmax(dim=1), 20)
    return accuracy(vote(similar, classes, truth.shape[1]).argmax(dim=1), truth)


def report(objective: str, result: dict[str, Any]) -> None:
    """Adds a result to those of this machine and day, and writes the page."""
    found = machine.describe("cpu")
    stem = f"pretraining_{machine.short_name(found)}_{date.today().isoformat()}"
    path = HERE / f"{stem}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[objective] = result
    path.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, HERE / f"{stem}.png")
    lines = [
        "# Self-supervised pre-training on CIFAR-10, in minutes of one core",
        "",
        f"{machine.summary(found)}, {date.today().isoformat()}, by `benchmarks/pretraining.py`.",
        "Accuracy of 20 nearest neighbors; `pooled` is the input of the head (class token or mean of the patches), "
        "`map` the concatenated patch tokens.",
        "",
        "| objective | parameters | steps x batch | CPU minutes | loss, first to last | raw pixels | pooled, untrained "
        "| pooled, trained | map, untrained | map, trained |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in sorted(results.items()):
        knn, curve = each["knn"], each["curve"]
        lines.append(
            f"| {name} | {each['parameters'] / 1e6:.1f} M | {each['steps']} x {each['batch_size']} "
            f"| {each['cpu_minutes']:.1f} | {losses(curve)} | {knn['pixels']:.1%} "
            f"| {knn['untrained_pooled']:.1%} | **{knn['pooled']:.1%}** "
            f"| {knn['untrained_map']:.1%} | **{knn['map']:.1%}** |"
        )
    lines += ["", "Indicators of collapse at the last logged step:", ""]
    for name, each in sorted(results.items()):
        last = each["curve"][-1]
        lines.append(f"* {name}: " + ", ".join(f"{key} {last[key]:.3g}" for key in MONITORS if key in last))
    queries = next(iter(results.values()))
    lines += ["", f"{queries['queries']} test images, {queries['gallery']} training images, sampled with a fixed seed."]
    lines += ["", f"![the losses]({stem}.png)", ""]
    (HERE / f"{stem}.md").write_text("\n".join(lines))


def phases(curve: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Splits a run into phases with the same logged values: BEiT first trains its tokenizer."""
    return [list(steps) for _, steps in groupby(curve, key=lambda step: step.keys() - {"step"})]


def losses(curve: list[dict[str, Any]]) -> str:
    """Returns the first and last loss of each phase."""
    return ", then ".join(f"{part[0]['loss']:.3f} to {part[-1]['loss']:.3f}" for part in phases(curve))


def draw(results: dict[str, Any], path: Path) -> None:
    """Plots the losses of all objectives; the last phase on the left axis, an earlier one on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(results), 2.4), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (name, each) in zip(axes, sorted(results.items()), strict=True):
        *before, last = phases(each["curve"])
        for steps, axes_of_phase, color in ((last, axis, "C0"), *((part, axis.twinx(), "C1") for part in before)):
            axes_of_phase.plot([step["step"] for step in steps], [step["loss"] for step in steps], color, linewidth=1)
            axes_of_phase.tick_params(axis="y", labelsize=7, labelcolor=color)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(name + " (right: its tokenizer)" * bool(before), fontsize=9)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
