"""Contract checks of evaluators. Each check takes a `Subject`: an evaluator name, with its argument."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from vitkit import evaluation, models
from vitkit.data.loader import Batch
from vitkit.data.processor import Processor
from vitkit.evaluation import ModelOutputs
from vitkit.models import Backbone, vit
from vitkit.plugins.contracts import expect
from vitkit.task import Task

LABELS = (0, 1, 2, 0, 1, 2)
KEYS = "abcdef"


@dataclass(frozen=True)
class Subject:
    """An evaluator, such as `top1` or `real:labels.json`, with a small model and six images named a to f."""

    spec: str
    passes: list[bool] = field(default_factory=list)

    @cached_property
    def task(self) -> Task:
        """A task that the evaluator supports."""
        types = evaluation.problem_types(self.spec)
        return Task() if Task().problem_type in types else Task(problem_type=types[0])  # type: ignore[arg-type]

    @cached_property
    def model(self) -> Backbone:
        """A small model in training mode."""
        torch.manual_seed(0)
        return models.build(replace(vit.TINY, task=self.task)).train()

    @cached_property
    def images(self) -> Tensor:
        """Six random images."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(6, self.model.config.channels, *self.model.config.image_size, generator=generator)

    @cached_property
    def outputs(self) -> ModelOutputs:
        """The input of the evaluator. Each pass over the images appends `model.training` to `passes`."""
        classes = self.model.config.num_classes
        targets = torch.eye(classes)[list(LABELS)]

        def batches() -> list[Batch]:
            self.passes.append(self.model.training)
            return [
                Batch(self.images[:4], targets[:4], tuple(KEYS[:4])),
                Batch(self.images[4:], targets[4:], tuple(KEYS[4:])),
            ]

        def training() -> list[Batch]:
            more = torch.randn(20, *self.images.shape[1:], generator=torch.Generator().manual_seed(1))
            return [Batch(more, torch.eye(classes)[[0, 1] * 10], tuple(map(str, range(20))))]

        names = tuple(f"c{index}" for index in range(classes))
        processor = Processor(size=self.model.config.image_size)
        return ModelOutputs(self.model, batches, names, training=training, processor=processor)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics of the evaluator."""
        return evaluation.evaluate(self.outputs, [self.spec])


def evaluate_is_valid(subject: Subject) -> None:
    """Checks the attributes of the module and the argument of the evaluator."""
    module = evaluation.evaluator(subject.spec)
    check = getattr(module, "check", None)
    expect(check is None or callable(check), f"check is {check!r}; expected a function check(data), or none at all")


def the_metrics_are_finite_numbers(subject: Subject) -> None:
    """Checks that metrics of six images in three classes have valid names and finite values."""
    name = subject.spec.partition(":")[0]
    found = subject.metrics
    expect(found, 'evaluate returned no metrics; expected a dict such as {"accuracy": 0.5}')
    for key, value in found.items():
        expect(key.startswith((f"{name}.", f"{name}:")), f"a metric is called '{key}'; expected '{name}.{key}'")
        number = isinstance(value, float) and math.isfinite(value)
        expect(number, f"the metric '{key}' is {value!r}; expected a finite Python float, as of .item()")


def the_model_runs_once_in_eval_mode(subject: Subject) -> None:
    """Checks that the model runs once, and that its mode and its predictions are unchanged afterwards."""
    _ = subject.metrics
    # Evaluators that read other parts, such as the last blocks in `linear`, run their own forward passes.
    if evaluation.reads(subject.spec) not in ("model", "representations"):
        once = subject.passes in ([False], [])
        expect(
            once,
            f"the images were read {len(subject.passes)} times; use subject.predictions, subject.vectors or "
            "subject.representations, which run the model once for all evaluators",
        )
    expect(subject.model.training, "the model is in eval mode after the evaluation; use vitkit.layers.eval_mode(model)")
    with torch.no_grad():
        expected = subject.model.eval()(subject.images)
    same = torch.allclose(subject.outputs.predictions.logits, expected, atol=1e-5, rtol=1e-5)
    expect(same, "the evaluator has changed the predictions; do not write into tensors of the subject")


def the_metrics_are_the_same_again(subject: Subject) -> None:
    """Checks that a second evaluation gives the same metrics, unless the evaluator reads the model itself."""
    if evaluation.reads(subject.spec) != "model":
        again = evaluation.evaluate(subject.outputs, [subject.spec])
        differ = [name for name, value in subject.metrics.items() if again.get(name) != value]
        expect(not differ, f"a second evaluation gave another value for {', '.join(differ)}; use a fixed seed")


CHECKS = (
    evaluate_is_valid,
    the_metrics_are_finite_numbers,
    the_model_runs_once_in_eval_mode,
    the_metrics_are_the_same_again,
)
