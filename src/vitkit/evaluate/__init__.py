"""Evaluators: a model in, named numbers out; one file each, found by its file name.

An evaluator is a file with a function `evaluate(subject) -> {name: number}`. The subject holds the model and the
pictures, and runs the model over them once, however many evaluators ask. A new evaluator is one new file here. One that
takes an argument has it as a second parameter, and is asked for as `name:argument` (`real:labels.json`). One that does
not need the model's own classes says what it reads: `READS = "representations"`, or `"model"`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitkit.config import nearest
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.models import Backbone

Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class Predictions:
    """What a model says of pictures, in float32 on the CPU, with what is true; `keys` name the pictures."""

    logits: Float[Tensor, "n classes"]
    targets: Float[Tensor, "n classes"]
    keys: tuple[str, ...]

    @cached_property
    def scores(self) -> Float[Tensor, "n classes"]:
        """The share of certainty given to each class."""
        return self.logits.softmax(dim=1)


@dataclass(frozen=True)
class Representations:
    """What the head reads of pictures that have a label, in float32 on the CPU, with what is true."""

    vectors: Float[Tensor, "n d"]
    targets: Float[Tensor, "n classes"]

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """The class of each picture, the first where there are several."""
        return self.targets.argmax(dim=1)


class Subject:
    """A model under evaluation with the labelled pictures it is judged by, and those that an evaluator may learn from.

    `processor` is how its pictures were prepared, for evaluators that lay something over them. `batches`, and
    `training` if given, are called for a pass over the pictures, their targets counted by `classes`.
    The model is put into evaluation mode for a pass, and back.
    """

    processor: Processor | None = None

    def __init__(
        self,
        model: Backbone,
        batches: Batches,
        classes: tuple[str, ...],
        *,
        training: Batches | None = None,
        processor: Processor | None = None,
    ):
        self.model = model
        # A model made fast answers like any other, but has no parts to look into: the one it was made of has.
        self.exact: Backbone = getattr(model, "original", model)
        self.batches = batches
        self.classes = classes
        self.training = training
        self.processor = processor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def predictions(self) -> Predictions:
        """The logits of every picture, in order; ValueError where they are not logits of the pictures' classes."""
        if self.model.config.num_classes == 0:
            raise ValueError("the model has no classes to be right about: judge it by knn, fewshot or probe")
        logits, targets = self._judged.logits, self._judged.targets
        if logits.shape != targets.shape:
            raise ValueError(
                f"the model's logits for {targets.shape[0]} pictures of {targets.shape[1]} classes "
                f"have the shape {tuple(logits.shape)}"
            )
        return Predictions(logits=logits, targets=targets, keys=self._judged.keys)

    @cached_property
    def representations(self) -> Representations:
        """The representations of the pictures to judge by, in order, those without a label left out."""
        return self._judged.representations

    @cached_property
    def training_representations(self) -> Representations:
        """The same of the pictures to learn from; ValueError where there are none."""
        if self.training is None:
            raise ValueError(
                "knn, fewshot, probe and linear learn from labelled pictures, and no training pictures were given"
            )
        return self._look(self.training, logits=False).representations

    @cached_property
    def _judged(self) -> "_Seen":
        return self._look(self.batches, logits=True)

    def _look(self, batches: Batches, *, logits: bool) -> "_Seen":
        rows = list(self._rows(batches, logits))
        if not rows:
            raise ValueError("there are no pictures to evaluate on")
        said, vectors, targets, keys = zip(*rows, strict=True)
        names = tuple(key for part in keys for key in part)
        return _Seen(torch.cat(said), torch.cat(vectors), torch.cat(targets), names)

    def _rows(self, batches: Batches, logits: bool) -> Iterator[tuple[Tensor, Tensor, Tensor, tuple[str, ...]]]:
        parameter = next(self.model.parameters())
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                for batch in batches():
                    # One pass of the network serves both.
                    features = self.model.features(batch.images.to(parameter.device, parameter.dtype))
                    vectors = self.model.represent(features).float().cpu()
                    said = self.model.logits(features).float().cpu() if logits else vectors[:, :0]
                    yield said, vectors, batch.targets, batch.keys
        finally:
            self.model.train(training)


@dataclass(frozen=True)
class _Seen:
    logits: Tensor
    vectors: Tensor
    targets: Tensor
    keys: tuple[str, ...]

    @property
    def representations(self) -> Representations:
        """Those of the pictures that have a label; ValueError where none has, or a picture has no single vector."""
        if self.vectors.ndim != 2:
            raise ValueError("this model gives a vector for every token: give it a pooling to have one for a picture")
        labelled = self.targets.sum(dim=1) > 0
        if not labelled.any():
            raise ValueError("none of the pictures has a label")
        return Representations(vectors=self.vectors[labelled], targets=self.targets[labelled])


def evaluators() -> list[str]:
    """The names of the evaluators: the files of this folder that judge a subject."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if _judges(module.name))


def evaluator(word: str) -> ModuleType:
    """The module that a word like `top1` or `real:labels.json` asks for.

    Raises ValueError where there is no such file, and for an argument that is missing or one too many.
    """
    name, colon, argument = word.partition(":")
    if name not in (module.name for module in pkgutil.iter_modules(__path__)) or not _judges(name):
        raise ValueError(f"unknown evaluator '{name}'{nearest(name, evaluators())}")
    module = importlib.import_module(f"{__name__}.{name}")
    parameters = list(inspect.signature(module.evaluate).parameters.values())
    if colon and (len(parameters) == 1 or not argument):
        raise ValueError(
            f"the evaluator '{name}' takes no argument, but '{word}' gives one"
            if argument
            else f"'{word}' names no argument after the colon"
        )
    if not colon and len(parameters) > 1 and parameters[1].default is inspect.Parameter.empty:
        raise ValueError(f"the evaluator '{name}' takes an argument: write {name}:{parameters[1].name.upper()}")
    return module


def reads(word: str) -> str:
    """What an evaluator judges a model by: `predictions`, `representations` or the `model` alone."""
    return getattr(evaluator(word), "READS", "predictions")


def evaluate(subject: Subject, names: Iterable[str]) -> dict[str, float]:
    """The numbers of several evaluators, each under `evaluator.number`; under `evaluator:argument.number` if it has
    one.
    """
    modules = {name: evaluator(name) for name in names}
    numbers: dict[str, float] = {}
    for word, module in modules.items():
        name, colon, argument = word.partition(":")
        found = module.evaluate(subject, argument) if colon else module.evaluate(subject)
        prefix = f"{name}:{Path(argument).stem}" if colon else name
        numbers |= {f"{prefix}.{key}": value for key, value in found.items()}
    return numbers


def right(predicted: Int[Tensor, " n"], targets: Float[Tensor, "n classes"]) -> float:
    """The share of pictures whose predicted class is among the true ones."""
    return (targets.gather(1, predicted[:, None]) > 0).double().mean().item()


def _judges(name: str) -> bool:
    return hasattr(importlib.import_module(f"{__name__}.{name}"), "evaluate")
