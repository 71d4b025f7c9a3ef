"""Evaluators, which compute named metrics of a model. Each evaluator is a module with an `evaluate` function.

An evaluator is a file with a function `evaluate(subject) -> {name: number}`. `subject` is a `ModelOutputs`. It contains
the model and the images, and runs the model once for all evaluators. To add an evaluator, add a file. An evaluator with
an argument takes it as the second parameter and is called `name:argument` (`real:labels.json`). An evaluator that does
not need the model's classes declares its input: `READS = "representations"`, `READS = "model"`, or `READS = "images"`
for the representations of images that need no labels. An evaluator of predictions supports single-label and multi-label
classification, or the `PROBLEM_TYPES` (of `vitkit.task`) that it declares. An evaluator whose metrics are not fractions
between 0 and 1 declares `FRACTIONS = False`. `NUMBERS` lists single metrics that are not fractions. An evaluator may
define `check`, which raises an error for unsuitable data before any image is read (see `requirements`).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.discovery import Component, PluginError
from vitkit.layers import eval_mode
from vitkit.layers.features import Features
from vitkit.models import Backbone
from vitkit.references import resolve
from vitkit.registry import Registry, namespace
from vitkit.task import PROBLEM_TYPES, SINGLE_LABEL, Task
from vitkit.text import percent

Batches = Callable[[], Iterable[Batch]]
CLASSIFICATION = ("single_label_classification", "multi_label_classification")
# Metrics of any evaluator that are not fractions, by the last part of their names.
NUMBERS = {
    *("blocks", "brier", "classes", "gradient", "images", "l2", "loss", "mean_patch", "nll", "objects", "rate"),
    "temperature",
}


@dataclass(frozen=True)
class Predictions:
    """Logits and targets of images, in float32 on the CPU, with the image names `keys` and the task of the model."""

    logits: Float[Tensor, "n classes"]
    targets: Float[Tensor, "n classes"]
    keys: tuple[str, ...]
    task: Task = SINGLE_LABEL

    @cached_property
    def scores(self) -> Float[Tensor, "n classes"]:
        """Probabilities of the classes. For a regression, the predicted values in float64."""
        return self.task.scores(self.logits.double() if self.task.regression else self.logits)


@dataclass(frozen=True)
class Representations:
    """Representations (inputs of the head) and targets of labeled images, in float32 on the CPU."""

    vectors: Float[Tensor, "n d"]
    targets: Float[Tensor, "n classes"]

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Class index of each image. For an image with several labels, the index of the first label."""
        return self.targets.argmax(dim=1)


class ModelOutputs:
    """Input of the evaluators: a model, labeled images, and the model outputs, computed once for all evaluators.

    `batches` returns the evaluation images, and `training` returns the training images for evaluators that train a
    classifier. The columns of the targets are `classes`. `processor` is the preprocessing of the images, for evaluators
    that apply it to masks. The model runs in eval mode, and its mode is restored afterwards. `autocast` is the autocast
    dtype of the features, or None for float32. Heads and metrics are computed in float32.
    """

    processor: Processor | None = None
    # The task of the model, which decodes its logits.
    task: Task = SINGLE_LABEL

    def __init__(
        self,
        model: Backbone,
        batches: Batches,
        classes: tuple[str, ...],
        *,
        training: Batches | None = None,
        processor: Processor | None = None,
        autocast: torch.dtype | None = None,
    ):
        self.model = model
        self.autocast = autocast
        # A copy of a model that is optimized for inference has no blocks. Evaluators that need blocks use the original.
        self.original_model: Backbone = getattr(model, "original", model)
        self.task = self.original_model.config.task
        self.batches = batches
        self.classes = classes
        self.training = training
        self.processor = processor

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @cached_property
    def predictions(self) -> Predictions:
        """Predictions for all images. Raises ValueError if model and labels have different numbers of classes."""
        if self.model.config.num_classes == 0:
            raise ValueError("the model has no classes; evaluate it with knn, fewshot or probe")
        logits, targets = self._outputs.logits, self._outputs.targets
        if logits.shape != targets.shape:
            raise ValueError(
                f"the model's logits for {targets.shape[0]} images and {targets.shape[1]} classes "
                f"have the shape {tuple(logits.shape)}; expected {tuple(targets.shape)}"
            )
        return Predictions(logits=logits, targets=targets, keys=self._outputs.keys, task=self.task)

    @cached_property
    def representations(self) -> Representations:
        """Representations of the labeled evaluation images, in order."""
        return self._outputs.representations

    @cached_property
    def vectors(self) -> Float[Tensor, "n d"]:
        """Representations of all evaluation images, with or without labels, in order."""
        return self._outputs.pooled

    @cached_property
    def training_representations(self) -> Representations:
        """Representations of the labeled training images. Raises ValueError if there are none."""
        if self.training is None:
            raise ValueError("knn, fewshot, probe and linear need labeled training images, but none were given")
        return self._forward(self.training, logits=False).representations

    @cached_property
    def _outputs(self) -> "_Outputs":
        return self._forward(self.batches, logits=True)

    def _forward(self, batches: Batches, *, logits: bool) -> "_Outputs":
        rows = list(self.rows(batches, logits=logits))
        if not rows:
            raise ValueError("there are no images to evaluate on; expected at least one")
        outputs, vectors, targets, keys = zip(*rows, strict=True)
        names = tuple(key for part in keys for key in part)
        return _Outputs(torch.cat(outputs), torch.cat(vectors), torch.cat(targets), names)

    def rows(self, batches: Batches, *, logits: bool) -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[str, ...]]]:
        """Runs the model, and yields the logits, representations, targets and image names of each batch."""
        parameter = next(self.model.parameters())
        with eval_mode(self.model), torch.inference_mode():
            for batch in batches():
                # Logits and representations share one forward pass.
                features = self._features(batch.images.to(parameter.device, parameter.dtype))
                vectors = self.model.represent(features).float().cpu()
                outputs = self.model.logits(features).float().cpu() if logits else vectors[:, :0]
                yield outputs, vectors, batch.targets, batch.keys

    def _features(self, images: Float[Tensor, "b c height width"]) -> Features:
        if self.autocast is None:
            return self.model.features(images)
        with torch.autocast(images.device.type, dtype=self.autocast):
            found = self.model.features(images)
        earlier = None if found.earlier is None else found.earlier.float()
        return replace(found, tokens=found.tokens.float(), earlier=earlier)


@dataclass(frozen=True)
class _Outputs:
    logits: Tensor
    vectors: Tensor
    targets: Tensor
    keys: tuple[str, ...]

    @property
    def representations(self) -> Representations:
        """Representations of the labeled images. Raises ValueError if labels or pooling are missing."""
        vectors, labelled = self.pooled, self.targets.sum(dim=1) > 0
        if not labelled.any():
            raise ValueError("none of the images has a label; evaluation needs labeled images")
        return Representations(vectors=vectors[labelled], targets=self.targets[labelled])

    @property
    def pooled(self) -> Tensor:
        """Representations of all images. Raises ValueError if the model has no pooling."""
        if self.vectors.ndim != 2:
            raise ValueError("this model has no pooling and returns one vector per token; set pool to token or gap")
        return self.vectors


READS = ("predictions", "representations", "images", "model")
FORM = "metric(subject), or metric(subject, argument)"


def _validate(module: ModuleType) -> None:
    """Raises PluginError if an attribute of an evaluator violates the contract."""
    if not callable(module.evaluate):
        raise PluginError(f"evaluate is {module.evaluate!r}; expected a function {FORM}")
    parameters = inspect.signature(module.evaluate).parameters
    if len(parameters) not in (1, 2):
        raise PluginError(f"its function takes {inspect.signature(module.evaluate)}; expected {FORM}")
    if (reads := getattr(module, "READS", "predictions")) not in READS:
        raise PluginError(f"READS is {reads!r}; expected one of {', '.join(READS)}")
    for each in getattr(module, "PROBLEM_TYPES", ()):
        if each not in PROBLEM_TYPES:
            raise PluginError(f"PROBLEM_TYPES contains {each!r}; expected some of {', '.join(PROBLEM_TYPES)}")


def _adapt(component: Component) -> ModuleType:
    """Wraps a function as an evaluator module. If it returns a single number, the metric is named `value`."""
    function: Any = component.target
    if not callable(function) or isinstance(function, type):
        raise PluginError(f"'{component.name}' of {component.origin} is {function!r}; expected a function {FORM}")

    @wraps(function)
    def evaluate(*arguments: object) -> dict[str, float]:
        found: Any = function(*arguments)
        try:
            return {
                name: float(value) for name, value in (found if isinstance(found, dict) else {"value": found}).items()
            }
        except (TypeError, ValueError, RuntimeError):
            what = f"'{component.name}' of {component.origin} returned {type(found).__name__}"
            raise PluginError(f"{what}; expected a number, or a dict of numbers by name") from None

    names = ("READS", "PROBLEM_TYPES", "FRACTIONS", "check")
    given = {name: getattr(function, name) for name in names if hasattr(function, name)}
    return namespace(component, evaluate=evaluate, **given)


_EVALUATORS = Registry(__name__, "evaluator", {"evaluate": f"a function {FORM}"}, ("protocol", "requirements"),
                       plugin_kind="evaluator", adapt=_adapt, validate=_validate)  # fmt: skip


def canonical(spec: str) -> str:
    """Loads an evaluator in a file (`./mine.py:metric`) and returns its name.

    Other names are returned unchanged.
    """
    return resolve("evaluator", spec)


def evaluators() -> list[str]:
    """Returns the names of all evaluators."""
    return _EVALUATORS.names()


def evaluator(spec: str) -> ModuleType:
    """Returns the Python module of an evaluator, such as `top1`, `real:labels.json` or `./mine.py:metric`.

    Raises ValueError for an unknown evaluator, and for a missing or unexpected argument.
    """
    name, colon, argument = canonical(spec).partition(":")
    module = _EVALUATORS.get(name)
    parameters = list(inspect.signature(module.evaluate).parameters.values())
    if colon and (len(parameters) == 1 or not argument):
        raise ValueError(
            f"the evaluator '{name}' takes no argument, but got '{spec}'"
            if argument
            else f"the evaluator '{spec}' has no argument after the colon"
        )
    if not colon and len(parameters) > 1 and parameters[1].default is inspect.Parameter.empty:
        raise ValueError(f"the evaluator '{name}' needs an argument; write {name}:{parameters[1].name.upper()}")
    return module


def reads(spec: str) -> str:
    """Returns which part of `ModelOutputs` an evaluator reads: predictions, representations, images or model."""
    return getattr(evaluator(spec), "READS", "predictions")


def default_evaluators(task: Task) -> tuple[str, ...]:
    """Returns the names of the evaluators that `vitkit evaluate` runs by default for a task."""
    return {
        "single_label_classification": ("top1", "confusion", "calibration"),
        "multi_label_classification": ("average_precision", "f1", "calibration"),
        "regression": ("regression",),
    }[task.problem_type]


def problem_types(spec: str) -> tuple[str, ...]:
    """Returns the problem types that an evaluator supports."""
    default = CLASSIFICATION if reads(spec) == "predictions" else PROBLEM_TYPES
    return getattr(evaluator(spec), "PROBLEM_TYPES", default)


def check_task(names: Iterable[str], task: Task) -> None:
    """Raises ValueError if one of the named evaluators does not support the task of the model."""
    for spec in names:
        if task.problem_type not in (types := problem_types(spec)):
            raise ValueError(
                f"the evaluator '{spec}' is for {' and '.join(types)}, but the model's task is {task.problem_type}; "
                f"use {', '.join(default_evaluators(task))}"
            )


def needs_labels(spec: str) -> bool:
    """Returns whether an evaluator needs labeled images."""
    return reads(spec) in ("predictions", "representations")


def is_fraction(metric: str) -> bool:
    """Returns whether a metric, such as `top1.accuracy`, is a fraction between 0 and 1."""
    evaluator, _, name = metric.rpartition(".")
    found = evaluator.partition(":")[0].removesuffix("_tuned")
    return name not in NUMBERS and (found not in _EVALUATORS or getattr(_EVALUATORS.get(found), "FRACTIONS", True))


def formatted(metric: str, value: float) -> str:
    """Returns the value of a metric as text: a fraction in percent ("80.00%"), or a number with four digits."""
    if is_fraction(metric):
        return percent(value)
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:,.4g}"


def evaluate(subject: ModelOutputs, names: Iterable[str]) -> dict[str, float]:
    """Returns the metrics of several evaluators, with names of the form `evaluator.metric`.

    Metrics of an evaluator with an argument are named `evaluator:argument.metric`. Raises ValueError if an evaluator
    does not support the task of the model.
    """
    modules = {name: evaluator(name) for name in map(canonical, names)}
    check_task(modules, subject.task)
    numbers: dict[str, float] = {}
    for spec, module in modules.items():
        name, colon, argument = spec.partition(":")
        metrics = module.evaluate(subject, argument) if colon else module.evaluate(subject)
        prefix = f"{name}:{Path(argument).stem}" if colon else name
        numbers |= {f"{prefix}.{key}": value for key, value in metrics.items()}
    return numbers


def accuracy(predicted: Int[Tensor, " n"], targets: Float[Tensor, "n classes"]) -> float:
    """Returns the fraction of images whose predicted class is one of their true classes."""
    return (targets.gather(1, predicted[:, None]) > 0).double().mean().item()
