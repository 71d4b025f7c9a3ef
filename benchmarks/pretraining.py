"""Does learning without labels help? One objective on CIFAR-10: its own loss, and its features against fresh ones.

    python benchmarks/pretraining.py dino --data parquet:/data/cifar10

Trains the recipe `pretraining.dino_cifar10` (masked, simmim, beit, mae, dino) on one thread, then classifies test
pictures by their 20 nearest training pictures, in three kinds of vectors: those of the trained model, those of the same
model before its first step, and raw pixels. A model is read in two ways: `pooled`, what a head would read, and `map`,
the tokens of all patches in their order, which say where things are, as raw pixels do. Adds the objective to
`pretraining_<hardware>_<date>.md` beside this file, with its curve in the .png and all numbers in the .json.
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
from vitkit.evaluate import accuracy
from vitkit.evaluate.knn import neighbours, vote
from vitkit.recipes import recipe
from vitkit.train import Run, train
from vitkit.train.events import read

HERE = Path(__file__).parent
MONITORS = ("accuracy", "words", "entropy", "kl", "rank", "norm")


def main() -> None:
    """Trains, judges, and writes the report."""
    options = parsed()
    run = chosen(options)
    torch.set_num_threads(1)
    training, judged = train_and_val(run.data.source)
    gallery, queries = part(training, options.gallery), part(judged, options.queries)
    seconds = trained_for(run, options.out)
    log = [event for event in read(options.out / "log.jsonl") if event["kind"] == "step"]
    trained = checkpoints.load(options.out / "best").model
    found = {"pixels": nearest(gallery, queries, run.processor, lambda images: images.flatten(1))}
    for way, vectors in (("pooled", pooled), ("map", mapped)):
        found[way] = nearest(gallery, queries, run.processor, partial(vectors, trained.eval()))
        found[f"fresh_{way}"] = nearest(gallery, queries, run.processor, partial(vectors, fresh(run).eval()))
    result = {
        "steps": run.steps,
        "batch_size": run.batch_size,
        "cpu_minutes": seconds / 60,
        "parameters": sum(each.numel() for each in trained.parameters()),
        "gallery": len(gallery),
        "queries": len(queries),
        "knn": found,
        "curve": [{key: event[key] for key in ("step", "loss", *MONITORS) if key in event} for event in log],
    }
    print(json.dumps({key: value for key, value in result.items() if key != "curve"}))
    report(options.objective, result)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("objective", help="masked, simmim, beit, mae or dino")
    parser.add_argument("--data", required=True, help="CIFAR-10 as a source")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; one that was stopped goes on")
    parser.add_argument("--steps", type=int, help="fewer or more than the recipe's")
    parser.add_argument("--gallery", type=int, default=10_000, help="how many training pictures are neighbours")
    parser.add_argument("--queries", type=int, default=2_000, help="how many test pictures are classified")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="a field of the run")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> Run:
    """The recipe with what the command line changes; judged here and not on the way."""
    run = recipe(f"pretraining.{options.objective}_cifar10")
    changes: dict[str, Any] = {"data.source": options.data, "machine.threads": 1, "machine.log_every": 10}
    changes |= {"evaluators": ("flops",), "score": "flops.giga", "precision": run.precision}
    if options.steps:
        changes |= {"steps": options.steps, "schedule.warmup": min(run.schedule.warmup, options.steps // 10)}
    for each in options.set:
        name, _, value = each.partition("=")
        changes[name] = json.loads(value)
    run = override(run, changes)
    return override(run, {"evaluate_every": run.steps})


def part(source: Source, most: int) -> Source:
    """That many pictures, drawn by a seed; a source may be sorted by class."""
    if most >= len(source):
        return source
    return Subset(source, np.random.default_rng(0).permutation(len(source))[:most])


def fresh(run: Run) -> models.Backbone:
    """The model of a run as it is before its first step."""
    torch.manual_seed(run.seed)
    return objectives.build(run.objective, models.build(run.model)).backbone


def trained_for(run: Run, folder: Path) -> float:
    """Trains to the end; the seconds of CPU time, those of a part that was done before included."""
    kept, start = folder / "cpu-seconds.json", time.process_time()
    before = json.loads(kept.read_text()) if kept.exists() else 0.0
    try:
        train(run, folder)
    finally:
        seconds = before + time.process_time() - start
        kept.write_text(json.dumps(seconds))
    return seconds


def pooled(model: models.Backbone, images: Tensor) -> Tensor:
    """What a head reads of pictures."""
    return model.represent(model.features(images))


def mapped(model: models.Backbone, images: Tensor) -> Tensor:
    """The tokens of all patches, one after the other."""
    return model.features(images).patches.flatten(1)


def nearest(gallery: Source, queries: Source, processor: Processor, vectors: Callable[[Tensor], Tensor]) -> float:
    """The share of queries that 20 neighbours classify rightly."""

    def represented(source: Source) -> tuple[Tensor, Tensor]:
        rows, targets = [], []
        with torch.inference_mode():
            for batch in evaluation_batches(source, Transform(processor), batch_size=250):
                rows.append(vectors(batch.images).float())
                targets.append(batch.targets)
        return torch.cat(rows), torch.cat(targets)

    (keys, labels), (asked, truth) = represented(gallery), represented(queries)
    similar, classes = neighbours(asked, keys, labels.argmax(dim=1), 20)
    return accuracy(vote(similar, classes, truth.shape[1]).argmax(dim=1), truth)


def report(objective: str, result: dict[str, Any]) -> None:
    """Adds a result to those of this machine and day, and writes them for people."""
    found = machine.describe("cpu")
    stem = f"pretraining_{machine.short_name(found)}_{date.today().isoformat()}"
    path = HERE / f"{stem}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[objective] = result
    path.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, HERE / f"{stem}.png")
    lines = [
        "# Learning without labels on CIFAR-10, in minutes of one core",
        "",
        f"{machine.summary(found)}, {date.today().isoformat()}, by `benchmarks/pretraining.py`.",
        "Accuracy of 20 nearest neighbours; `pooled` is the mean of the patches or the class token, as the model has "
        "it, `map` all patches in their order, as raw pixels are.",
        "",
        "| objective | parameters | steps x batch | CPU minutes | loss, first to last | raw pixels | pooled, fresh "
        "| pooled, trained | map, fresh | map, trained |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in sorted(results.items()):
        knn, curve = each["knn"], each["curve"]
        lines.append(
            f"| {name} | {each['parameters'] / 1e6:.1f} M | {each['steps']} x {each['batch_size']} "
            f"| {each['cpu_minutes']:.1f} | {losses(curve)} | {knn['pixels']:.1%} "
            f"| {knn['fresh_pooled']:.1%} | **{knn['pooled']:.1%}** | {knn['fresh_map']:.1%} | **{knn['map']:.1%}** |"
        )
    lines += ["", "What tells a collapse, at the last logged step:", ""]
    for name, each in sorted(results.items()):
        last = each["curve"][-1]
        lines.append(f"* {name}: " + ", ".join(f"{key} {last[key]:.3g}" for key in MONITORS if key in last))
    queries = next(iter(results.values()))
    lines += ["", f"{queries['queries']} test pictures among {queries['gallery']} of training, drawn by a seed."]
    lines += ["", f"![the losses]({stem}.png)", ""]
    (HERE / f"{stem}.md").write_text("\n".join(lines))


def phases(curve: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The steps of each part of a run, which are told by what is logged of them: BEiT first makes its words."""
    return [list(steps) for _, steps in groupby(curve, key=lambda step: step.keys() - {"step"})]


def losses(curve: list[dict[str, Any]]) -> str:
    """The first loss and the last of each part."""
    return ", then ".join(f"{part[0]['loss']:.3f} to {part[-1]['loss']:.3f}" for part in phases(curve))


def draw(results: dict[str, Any], path: Path) -> None:
    """The losses of all objectives, each in its own measure: a run's last part on the left, one before it right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(results), 2.4), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (name, each) in zip(axes, sorted(results.items()), strict=True):
        *before, last = phases(each["curve"])
        for steps, place, color in ((last, axis, "C0"), *((part, axis.twinx(), "C1") for part in before)):
            place.plot([step["step"] for step in steps], [step["loss"] for step in steps], color, linewidth=1)
            place.tick_params(axis="y", labelsize=7, labelcolor=color)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(name + " (right: its words)" * bool(before), fontsize=9)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
