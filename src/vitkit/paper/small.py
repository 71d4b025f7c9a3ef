"""Studies at small scale: pre-training on half of the classes at hand, judging or fine-tuning on the other half.

Everything is trained by the one loop (`vitkit.train`) in run folders below the study's own; a study that was stopped
goes on, and one that is over is only read. The digits inside the package are 1,797 pictures of ten classes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vitkit import checkpoints, config, models
from vitkit.data import splits
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.evaluate import protocol
from vitkit.evaluate.flops import flops
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.paper.spread import Trial
from vitkit.train import Data, Machine, Result, Run, train
from vitkit.train.optim import Optimizer
from vitkit.train.schedule import Schedule

RATE = 2e-3
BATCH = 32
PATCH = 4
SHOTS = 5
TO_LEARN_FROM = 100  # pictures a class that few-shot draws come from, where a source has a training split


def silent(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Variant:
    """What is compared: a model, and what its run has otherwise than the others."""

    model: Any
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a variant came to over seeds: accuracy on held-out pictures of the classes it was trained on, 5-shot
    accuracy on the classes that it never saw, and its forward pass in floating-point operations a picture.
    """

    name: str
    accuracy: Trial
    fewshot: Trial
    flops: float
    folders: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Small:
    """What a study runs with: where to, on which pictures, how often and how long (None is the study's own length).

    `model` is a checkpoint to look at, for the exhibits that show one. `say` is told of every run.
    """

    out: Path
    data: str = "digits"
    seeds: int = 3
    steps: int | None = None
    model: str | None = None
    device: str = "auto"
    say: Callable[[str], None] = silent

    def __post_init__(self) -> None:
        """Refuses what nothing can be said of."""
        if self.seeds < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError(f"seeds is {self.seeds} and steps {self.steps}; both are at least 1")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes of the pictures at hand; ValueError where there are too few to learn from some and transfer to
        others.
        """
        found = next(iter(splits(self.data).values())).classes
        if len(found) < 4:
            raise ValueError(f"'{self.data}' has {len(found)} classes; a study takes at least 4, half to transfer to")
        return found

    @cached_property
    def comes_in_splits(self) -> bool:
        """Whether the source was published with a split to judge on."""
        return "all" not in splits(self.data)

    @property
    def side(self) -> int:
        """How many pixels a side the models see."""
        return 16 if self.data == "digits" else 32

    @property
    def upstream(self) -> str:
        """The first half of the classes, to pre-train on."""
        return f"part:classes=0-{len(self.classes) // 2 - 1}@{self.data}"

    @property
    def downstream(self) -> str:
        """The other half, which pre-training never sees."""
        return f"part:classes={len(self.classes) // 2}-{len(self.classes) - 1}@{self.data}"

    def part(self, source: str, words: str) -> str:
        """A further part of `upstream` or `downstream`, as in `share=0.1`."""
        return source.replace("@", f",{words}@", 1)

    def length(self, steps: int) -> int:
        """The number of steps asked for, or the study's own."""
        return self.steps or steps

    def vit(self, **changes: Any) -> vit.Config:
        """The plain ViT that studies vary: 0.1 million parameters, patches of 4 pixels."""
        shape: dict[str, Any] = {"width": 64, "depth": 3, "num_heads": 4, "mlp_width": 128}
        size = {"image_size": (self.side, self.side), "patch_size": (PATCH, PATCH)}
        return vit.Config(**{**size, **shape, **changes})

    def run(self, name: str, model: Any, *, data: str, seed: int, steps: int, **changes: Any) -> Run:
        """A run from scratch, for `changes` with dots written as double underscores."""
        num_classes = len(next(iter(splits(data).values())).classes)
        run = Run(
            name=f"{name}-seed{seed}",
            model=config.override(model, {"num_classes": num_classes}),
            objective=supervised.Config(),
            data=Data(source=data, held_out=0.2),
            processor=Processor.squash(self.side, interpolation="bicubic"),
            augment=Augment(shift=0.08),
            optimizer=Optimizer(rate=RATE, weight_decay=0.05),
            schedule=Schedule(decay="cosine", warmup=steps // 10),
            batch_size=BATCH,
            steps=steps,
            seed=seed,
            evaluators=("top1",),
            evaluate_every=steps,
            keep="last",
            machine=Machine(device=self.device, threads=1, save_every=steps),
        )
        return config.override(run, {key.replace("__", "."): value for key, value in changes.items()})

    def train(self, run: Run) -> Result:
        """The run in its folder below the study's; only read where it is over."""
        start = time.process_time()
        result = train(run, self.out / "runs" / run.name)
        seconds = time.process_time() - start
        self.say(f"{run.name}: {run.score} {result.score:.3f} after {seconds:.0f} s of CPU")
        return result

    def finetune(self, name: str, start: Path | None, *, data: str, seed: int, steps: int, **changes: Any) -> Result:
        """A checkpoint taught few pictures of new classes, as the paper does: SGD, no decay; `start` None is none.

        What it is judged on are all other pictures of these classes.
        """
        given = {"optimizer__name": "sgd", "optimizer__weight_decay": 0.0, "optimizer__rate": 0.03, **changes}
        if start is None:
            model = given.pop("model")
        else:
            model = checkpoints.load(start).model.config
            given["start"] = str(start.resolve())
        if not self.comes_in_splits:
            given.setdefault("data__val", self.part(data, "rest=1"))
        return self.train(self.run(name, model, data=data, seed=seed, steps=steps, **given))

    def fewshot(self, folder: Path, source: str | None = None) -> float:
        """The 5-shot accuracy of a checkpoint on classes it never saw, the mean of three draws (ViT paper, section
        4.1).
        """
        loaded, data = checkpoints.load(folder), source or self.downstream
        config = protocol.EvaluationConfig(
            data=data,
            train=self.part(data, f"number={TO_LEARN_FROM}") if self.comes_in_splits else None,
            held_out=None if self.comes_in_splits else 0.5,
            evaluators=("fewshot",),
            batch_size=64,
        )
        found = protocol.run(str(folder), loaded.model, loaded.processor, loaded.labels, config)
        return found.metrics[f"fewshot.{SHOTS}shot"]

    def sweep(self, variants: Mapping[str, Variant], steps: int, *, data: str | None = None) -> list[Outcome]:
        """Every variant pre-trained and judged with every seed."""
        outcomes = []
        for name, variant in variants.items():
            accuracy, fewshot, folders = [], [], []
            for seed in range(self.seeds):
                arguments = {"steps": self.length(steps), **variant.changes}
                run = self.run(slug(name), variant.model, data=data or self.upstream, seed=seed, **arguments)
                result = self.train(run)
                folders.append(result.folder / "best")
                accuracy.append(result.score)
                fewshot.append(self.fewshot(folders[-1]))
            cost = float(flops(models.build(variant.model, device="meta")))
            outcomes.append(
                Outcome(name, Trial(name, tuple(accuracy)), Trial(name, tuple(fewshot)), cost, tuple(folders))
            )
        return outcomes


def slug(name: str) -> str:
    """A name as that of a folder."""
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in name.lower())


def raw(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers behind a sweep, for JSON."""
    return {
        each.name: {"accuracy": each.accuracy.values, "fewshot": each.fewshot.values, "flops": each.flops}
        for each in outcomes
    }
