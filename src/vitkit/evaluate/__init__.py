"""Evaluators: a model in, named numbers out; one file each, found by its file name.

An evaluator is a file with a function `evaluate(subject) -> {name: number}`. The subject holds the model and the
pictures, and runs the model over them once, however many evaluators ask. A new evaluator is one new file here.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.config import nearest
from vitkit.data.loader import Batch
from vitkit.models import Backbone


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


class Subject:
    """A model under evaluation with the labelled pictures it is judged by.

    `batches` is called for every pass over the pictures. The model is put into evaluation mode for a pass, and back.
    """

    def __init__(self, model: Backbone, batches: Callable[[], Iterable[Batch]], classes: tuple[str, ...]):
        self.model = model
        self.batches = batches
        self.classes = classes

    @cached_property
    def predictions(self) -> Predictions:
        """The logits of every picture, in order."""
        logits, targets, keys = [], [], []
        for batch, output in self._outputs():
            logits.append(output)
            targets.append(batch.targets)
            keys.extend(batch.keys)
        if not logits:
            raise ValueError("there are no pictures to evaluate on")
        return Predictions(logits=torch.cat(logits), targets=torch.cat(targets), keys=tuple(keys))

    def _outputs(self) -> Iterator[tuple[Batch, Tensor]]:
        device = next(self.model.parameters()).device
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                for batch in self.batches():
                    yield batch, self.model(batch.images.to(device)).float().cpu()
        finally:
            self.model.train(training)


def evaluators() -> list[str]:
    """The names of the evaluators: the files of this folder that judge a subject."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if _judges(module.name))


def evaluator(name: str) -> ModuleType:
    """The module of one evaluator; ValueError where there is no such file."""
    if name not in (module.name for module in pkgutil.iter_modules(__path__)) or not _judges(name):
        raise ValueError(f"unknown evaluator '{name}'{nearest(name, evaluators())}")
    return importlib.import_module(f"{__name__}.{name}")


def evaluate(subject: Subject, names: Iterable[str]) -> dict[str, float]:
    """The numbers of several evaluators, each under `evaluator.number`."""
    modules = {name: evaluator(name) for name in names}
    return {
        f"{name}.{key}": value for name, module in modules.items() for key, value in module.evaluate(subject).items()
    }


def _judges(name: str) -> bool:
    return hasattr(importlib.import_module(f"{__name__}.{name}"), "evaluate")
