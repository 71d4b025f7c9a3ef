"""Small-scale studies that pre-train on half of the classes and transfer to the other half.

Models are trained by `vitkit.training` in run folders inside the folder of the study. An interrupted study resumes, and
finished runs are not repeated. The default dataset is the digits of the package, 1,797 images of ten classes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vitkit import checkpoints, config, models
from vitkit.config import Dataclass
from vitkit.data import splits
from vitkit.data.augment import Augment
from vitkit.data.processor import Processor
from vitkit.evaluation import protocol
from vitkit.evaluation.flops import flops
from vitkit.models import vit
from vitkit.objectives import supervised
from vitkit.paper._significance import Trial
from vitkit.training import Data, Hardware, Result, Run, train
from vitkit.training.optim import Optimizer
from vitkit.training.schedule import Schedule

RATE = 2e-3
BATCH = 32
PATCH = 4
SHOTS = 5
FEWSHOT_POOL = 100  # images per class to sample few-shot images from, for a source with a training split


def silent(text: str) -> None:
    """Ignores a progress message."""


@dataclass(frozen=True)
class Variant:
    """A model variant in a sweep: the model config, and changed settings of the training run."""

    model: Dataclass
    changes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Results of a model variant for all seeds: accuracies, FLOPs and checkpoints.

    `accuracy` is that on held-out images of the training classes, `fewshot` the 5-shot accuracy on the other classes,
    and `flops` the floating-point operations of the forward pass per image.
    """

    name: str
    accuracy: Trial
    fewshot: Trial
    flops: float
    folders: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class SmallScale:
    """Settings of a small-scale study, such as the output folder, the dataset and the number of seeds.

    `steps` None is the default of the study. `model` is a checkpoint for the experiments that explain a model. `say` is
    called with a message after every run.
    """

    out: Path
    data: str = "digits"
    seeds: int = 3
    steps: int | None = None
    model: str | None = None
    device: str = "auto"
    log: Callable[[str], None] = silent

    def __post_init__(self) -> None:
        """Raises ValueError if the number of seeds or steps is less than 1."""
        if self.seeds < 1 or (self.steps is not None and self.steps < 1):
            raise ValueError(f"seeds is {self.seeds} and steps is {self.steps}; both must be at least 1")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes of the dataset. Raises ValueError if there are fewer than four."""
        classes = next(iter(splits(self.data).values())).classes
        if len(classes) < 4:
            raise ValueError(
                f"the dataset '{self.data}' has {len(classes)} classes; a study needs at least 4, "
                "half of them for transfer"
            )
        return classes

    @cached_property
    def has_splits(self) -> bool:
        """Whether the dataset has its own evaluation split."""
        return "all" not in splits(self.data)

    @property
    def side(self) -> int:
        """The side of the square input images of the models, in pixels."""
        return 16 if self.data == "digits" else 32

    @property
    def upstream(self) -> str:
        """The data source for pre-training: the first half of the classes."""
        return f"part:classes=0-{len(self.classes) // 2 - 1}@{self.data}"

    @property
    def downstream(self) -> str:
        """The data source for transfer: the second half of the classes."""
        return f"part:classes={len(self.classes) // 2}-{len(self.classes) - 1}@{self.data}"

    def part(self, source: str, options: str) -> str:
        """Returns `upstream` or `downstream` restricted to a part of the images, such as `options="fraction=0.1"`."""
        return source.replace("@", f",{options}@", 1)

    def length(self, steps: int) -> int:
        """Returns the number of training steps set by the user, or the default `steps`."""
        return self.steps or steps

    def vit(self, **changes: object) -> vit.Config:
        """Returns the config of the base ViT, with 0.1 million parameters and patches of 4 pixels."""
        shape: dict[str, object] = {"width": 64, "depth": 3, "num_heads": 4, "mlp_width": 128}
        size = {"image_size": (self.side, self.side), "patch_size": (PATCH, PATCH)}
        return vit.Config(**{**size, **shape, **changes})

    def run(self, name: str, model: Dataclass, *, data: str, seed: int, steps: int, **changes: object) -> Run:
        """Returns the config of a run from scratch, with `changes` such as `optimizer__lr` for `optimizer.lr`."""
        num_classes = len(next(iter(splits(data).values())).classes)
        run = Run(
            name=f"{name}-seed{seed}",
            model=config.override(model, {"num_classes": num_classes}),
            objective=supervised.Config(),
            data=Data(source=data, held_out=0.2),
            processor=Processor.squash(self.side, interpolation="bicubic"),
            augment=Augment(shift=0.08),
            optimizer=Optimizer(lr=RATE, weight_decay=0.05),
            schedule=Schedule(decay="cosine", warmup=steps // 10),
            batch_size=BATCH,
            steps=steps,
            seed=seed,
            evaluators=("top1",),
            evaluate_every=steps,
            select="last",
            hardware=Hardware(device=self.device, threads=1, save_every=steps),
        )
        return config.override(run, {key.replace("__", "."): value for key, value in changes.items()})

    def train(self, run: Run) -> Result:
        """Trains a run in a subfolder of the study. For a finished run, only reads the result."""
        start = time.process_time()
        result = train(run, self.out / "runs" / run.name)
        seconds = time.process_time() - start
        self.log(f"{run.name}: {run.metric} {result.score:.3f} after {seconds:.0f} s of CPU")
        return result

    def finetune(self, name: str, start: Path | None, *, data: str, seed: int, steps: int, **changes: object) -> Result:
        """Fine-tunes a checkpoint on a few images of new classes with SGD, as in the paper.

        `start` None trains `model` from random initialization. The evaluation images are all other images of these
        classes.
        """
        settings = {"optimizer__name": "sgd", "optimizer__weight_decay": 0.0, "optimizer__lr": 0.03, **changes}
        if start is None:
            model = settings.pop("model")
        else:
            model = checkpoints.load(start).model.config
            settings["init_from"] = str(start.resolve())
        if not self.has_splits:
            settings.setdefault("data__val", self.part(data, "rest=1"))
        return self.train(self.run(name, model, data=data, seed=seed, steps=steps, **settings))

    def fewshot(self, folder: Path, source: str | None = None) -> float:
        """Returns the 5-shot accuracy of a checkpoint on new classes, averaged over three random samples."""
        loaded, data = checkpoints.load(folder), source or self.downstream
        config = protocol.EvaluationConfig(
            data=data,
            train=self.part(data, f"number={FEWSHOT_POOL}") if self.has_splits else None,
            held_out=None if self.has_splits else 0.5,
            evaluators=("fewshot",),
            batch_size=64,
        )
        found = protocol.run(str(folder), loaded.model, loaded.processor, loaded.labels, config)
        return found.metrics[f"fewshot.{SHOTS}shot"]

    def sweep(self, variants: Mapping[str, Variant], steps: int, *, data: str | None = None) -> list[Outcome]:
        """Pre-trains and evaluates every model variant with every seed."""
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
    """Converts a name to a valid folder name."""
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in name.lower())


def raw(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Returns the numbers of a sweep for each seed, as a dict for JSON."""
    return {
        each.name: {"accuracy": each.accuracy.values, "fewshot": each.fewshot.values, "flops": each.flops}
        for each in outcomes
    }
