"""Evaluates a model on a dataset, without a training run.

`EvaluationConfig` names the data and the evaluators, `run` evaluates a model, and `Evaluation` holds the metrics.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from vitkit import __version__, checkpoints, evaluation
from vitkit.config import to_dict
from vitkit.data import Source, canonical, check_kind, fitted, splits, train_and_val
from vitkit.data.augment import Transform
from vitkit.data.fixes import Fix, Part, apply
from vitkit.data.labels import matched
from vitkit.data.loader import Batch, evaluation_batches
from vitkit.data.processor import Processor
from vitkit.data.unreadable import Unreadable, check_skipped
from vitkit.evaluation import ModelOutputs, Predictions, f1, requirements
from vitkit.images import DEFAULT_LIMITS, Limits
from vitkit.models import Backbone
from vitkit.text import printable

Progress = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Config of an evaluation: the data, and the evaluators (`top1`, `real:labels.json`, ...).

    The model is evaluated on the `val` or `test` split of `data`, or on all of its images. Evaluators that train a
    classifier use `train`, or the train split of `data`. `held_out` is the fraction of every class of `data` that is
    held out for evaluation; the other images are for training. `limits` are the limits of image files. Unreadable
    images are left out. The evaluation fails if more than ten images are unreadable and their fraction is above
    `max_unreadable`. `tune_threshold` also finds, for each independent label, the threshold with the best F1 on the
    evaluation images. `fixes` are corrections of labels, and images to drop (`vitkit.data.fixes.read_fixes`).
    """

    data: str
    train: str | None = None
    evaluators: tuple[str, ...]
    held_out: float | None = None
    seed: int = 0
    batch_size: int = 8
    workers: int = 0
    limits: Limits = DEFAULT_LIMITS
    max_unreadable: float = 0.1
    tune_threshold: bool = False
    fixes: tuple[Fix, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid, before any image is read. Loads plug-in files."""
        object.__setattr__(self, "evaluators", tuple(map(evaluation.canonical, self.evaluators)))
        object.__setattr__(self, "data", canonical(self.data))
        object.__setattr__(self, "train", None if self.train is None else canonical(self.train))
        if not 0.0 <= self.max_unreadable <= 1.0:
            raise ValueError(f"max_unreadable is {self.max_unreadable}; it must be between 0 and 1")
        if not self.evaluators:
            raise ValueError(f"no evaluator was given; choose from {', '.join(evaluation.evaluators())}")
        if self.tune_threshold and "predictions" not in self.reads:
            raise ValueError(
                "tune_threshold needs an evaluator of predictions, but the given evaluators are "
                f"{', '.join(self.evaluators)}; add f1"
            )
        if self.train is not None and "representations" not in self.reads:
            raise ValueError(
                f"train is '{self.train}', but these evaluators do not use training images: "
                f"{', '.join(self.evaluators)}; remove train"
            )
        if self.train is not None and self.held_out is not None:
            raise ValueError("train and held_out both select the training images; set only one of them")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")

    @property
    def reads(self) -> set[str]:
        """The parts of `ModelOutputs` that are read: predictions, representations, images or model."""
        return {evaluation.reads(word) for word in self.evaluators}

    def sources(self, labels: tuple[str, ...], *, regression: bool = False) -> tuple[Source | None, Source, str]:
        """Returns the training images, the evaluation images, and the split of the evaluation images.

        The training images are None if no evaluator needs them. The split is val, test or all; the split of held-out
        images is val.

        If an evaluator reads predictions, class indices are those of the model's `labels`. Raises ValueError if the
        classes do not match. `regression` says whether the model predicts numbers.
        """
        training, evaluation, split = self._corrected()
        if self.reads != {"model"}:
            check_kind(evaluation, regression=regression and "predictions" in self.reads, name=self.data)
        if "representations" not in self.reads:
            training = None
        elif training is None:
            raise ValueError(
                f"knn, fewshot, probe and linear need labeled training images, but '{self.data}' has no train split; "
                "set train or held_out"
            )
        if "predictions" not in self.reads:
            source = evaluation if training is None else fitted(evaluation, training.classes, name=self.data)
            return training, source, split
        if not labels:
            raise ValueError("the model has no classes to predict; use knn, fewshot or probe")
        matched_training = None if training is None else matched(training, labels, name=self.train or self.data)
        return matched_training, matched(evaluation, labels, name=self.data, regression=regression), split

    def _corrected(self) -> tuple[Source | None, Source, str]:
        """Returns the corrected training and evaluation images, and the split of the evaluation images."""
        training, evaluation, split = self._open()
        if not self.fixes:
            return training, evaluation, split
        if self.held_out is not None or (split == "all" and self.train is None):
            names, others = frozenset[str](), frozenset[str]()
        else:
            names, others = frozenset({"val", "test"} if self.train else {split}), frozenset({"train"})
        parts = [Part(evaluation, names), *([] if training is None else [Part(training, others)])]
        fixed = apply(parts, self.fixes)
        return None if training is None else fixed[1], fixed[0], split

    def _open(self) -> tuple[Source | None, Source, str]:
        found = splits(self.data, needs_labels=any(map(evaluation.needs_labels, self.evaluators)))
        if self.held_out is not None:
            if "all" not in found:
                raise ValueError(f"'{self.data}' has splits ({', '.join(found)}); held_out needs data without splits")
            return *train_and_val(self.data, held_out=self.held_out, seed=self.seed), "val"
        name = next((name for name in ("val", "test", "all") if name in found), None)
        if name is None:
            raise ValueError(f"'{self.data}' has no val or test split; it has {', '.join(found)}")
        if self.train is None:
            return found.get("train"), found[name], name
        if self.train == self.data and name == "all":
            raise ValueError(
                f"train and data are both '{self.data}'; set held_out instead of train to split the images"
            )
        others = splits(self.train)
        training = others.get("train") or others.get("all")
        if training is None:
            raise ValueError(f"'{self.train}' has no train split; it has {', '.join(others)}")
        return training, found[name], name


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Result of an evaluation: the metrics, the settings, and the `predictions` if an evaluator used them.

    `source` and `training` contain the images that could be read, and `unreadable` lists the others. `split` is the
    split of the evaluation images. `threshold` has one tuned threshold per label if the config asks for them. The
    metrics `f1_tuned` are computed with these thresholds on the same images; all other metrics use the thresholds of
    the model. `summary` says in which precision the model ran, and why.
    """

    model: str
    config: EvaluationConfig
    source: Source
    split: str
    training: Source | None
    metrics: dict[str, float]
    predictions: Predictions | None
    device: str
    precision: str
    checkpoint: checkpoints.Checkpoint | None = None
    unreadable: tuple[str, ...] = ()
    threshold: tuple[float, ...] | None = None
    summary: str = ""

    def __repr__(self) -> str:
        names = [name for name in self.metrics if evaluation.is_fraction(name)] or list(self.metrics)
        shown = [f"\n  {name} {evaluation.formatted(name, self.metrics[name])}" for name in names]
        title = f"{self.model} on {self.config.data}, {len(self.source):,} images"
        return printable(f"Evaluation({title})") + "".join(shown)

    def to_dict(self) -> dict[str, object]:
        """Returns a JSON-serializable dict of the metrics and all settings needed to compute them again."""
        return {
            "model": self.model,
            "data": self.config.data,
            "train": self.config.train,
            "held_out": self.config.held_out,
            "seed": self.config.seed,
            "fixes": [to_dict(fix) for fix in self.config.fixes],
            "split": self.split,
            "images": len(self.source),
            "training_images": None if self.training is None else len(self.training),
            "unreadable": list(self.unreadable),
            "classes": len(self.source.classes),
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.config.batch_size,
            "torch": torch.__version__,
            "vitkit": __version__,
            "metrics": self.metrics,
            **({} if self.threshold is None else {"threshold": list(self.threshold)}),
        }


def run(
    name: str,
    model: Backbone,
    processor: Processor,
    labels: tuple[str, ...],
    config: EvaluationConfig,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluates a model according to `config`, and returns an `Evaluation` with `name` as the model name.

    `progress` wraps the batches of each pass over the images, and gets the number of batches. Raises ValueError, before
    any image is read, if model, images and evaluators are incompatible. Raises TooManyUnreadable if too many images
    cannot be read.
    """
    task = model.config.task
    evaluation.check_task(config.evaluators, task)
    if config.tune_threshold:
        f1.check_tunable(task, model.config.num_classes)
    training, source, split = config.sources(labels, regression=task.regression)
    requirements.check(requirements.EvaluationData(model, source, training, processor), config.evaluators)
    for each in (source, *([] if training is None else [training])):
        check_skipped(each, config.max_unreadable)
    transform = Transform(processor, limits=config.limits)
    failed: list[Unreadable] = []

    def batches(of: Source) -> Callable[[], Iterable[Batch]]:
        failed.append(unreadable := Unreadable(len(of), config.max_unreadable))

        def read() -> Iterable[Batch]:
            options = {"batch_size": config.batch_size, "workers": config.workers, "unreadable": unreadable}
            found = evaluation_batches(of, transform, **options)
            return found if progress is None else progress(found, -(-len(of) // config.batch_size))

        return read

    subject = ModelOutputs(
        model,
        batches(source),
        source.classes,
        training=None if training is None else batches(training),
        processor=processor,
    )
    metrics = evaluation.evaluate(subject, config.evaluators)
    threshold = f1.best_thresholds(subject.predictions) if config.tune_threshold else None
    skipped = dict.fromkeys((*source.skipped, *(() if training is None else training.skipped)))
    parameter = next(model.parameters())
    return Evaluation(
        model=name,
        config=config,
        source=failed[0].readable(source),
        split=split,
        training=training if training is None else failed[1].readable(training),
        metrics=metrics | _tuned_metrics(subject, threshold),
        predictions=subject.predictions if "predictions" in config.reads else None,
        device=str(parameter.device),
        precision=getattr(model, "precision", str(parameter.dtype).removeprefix("torch.")),
        checkpoint=checkpoints.Checkpoint(model=subject.original_model, processor=processor, labels=labels),
        unreadable=(
            *skipped,
            *map(str, failed[0].images),
            *(f"training {image}" for each in failed[1:] for image in each.images),
        ),
        threshold=threshold,
    )


def _tuned_metrics(subject: ModelOutputs, threshold: tuple[float, ...] | None) -> dict[str, float]:
    """Returns the metrics of `f1` with the tuned thresholds as `f1_tuned.*`, or {} if no thresholds are given."""
    if threshold is None:
        return {}
    predictions = subject.predictions
    tuned = replace(predictions, task=predictions.task.with_threshold(threshold))
    return {f"f1_tuned.{name}": value for name, value in f1.metrics(tuned, subject.classes).items()}
