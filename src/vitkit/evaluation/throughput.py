"""Throughput of the forward pass in images per second, as the median over batches after a warm-up."""

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitkit.evaluation import ModelOutputs
from vitkit.evaluation.requirements import EvaluationData
from vitkit.layers import eval_mode
from vitkit.models import Backbone

READS = "model"
FRACTIONS = False
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UP, BATCHES = 3, 20


@dataclass(frozen=True)
class Throughput:
    """A measured throughput in images per second, with batch size, precision and device."""

    images_per_second: float
    batch_size: int
    precision: str
    device: str


def check(data: EvaluationData, precision: str = "") -> tuple[str, ...]:
    """Returns the names of the metrics. Raises ValueError if the precision is unknown."""
    check_precision(precision)
    return (f"{precision or precision_name(data.model)}_images_per_second", "batch_size")


def check_precision(precision: str) -> None:
    """Raises ValueError if the precision is unknown."""
    if precision and precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}'; choose from {', '.join(PRECISIONS)}")


def precision_name(model: Backbone) -> str:
    """Returns the name of the precision in which a model computes, such as `float32`."""
    return getattr(model, "precision", str(next(model.parameters()).dtype).removeprefix("torch."))


def evaluate(subject: ModelOutputs, precision: str = "") -> dict[str, float]:
    """Returns the throughput on the first batch, as `float32_images_per_second` or similar, and `batch_size`.

    `precision` is one of `PRECISIONS` (`throughput:bfloat16`); the default is that of the model.
    """
    first = next(iter(subject.batches()), None)
    if first is None:
        raise ValueError("there are no images to evaluate on; expected at least one")
    result = measure(subject.original_model if precision else subject.model, first.images, precision)
    return {
        f"{result.precision}_images_per_second": result.images_per_second,
        "batch_size": float(result.batch_size),
    }


def measure(
    model: Backbone,
    images: Float[Tensor, "b c height width"],
    precision: str = "",
    *,
    warm_up: int = WARM_UP,
    batches: int = BATCHES,
) -> Throughput:
    """Measures the throughput of a model on one batch. Raises ValueError if the precision is unknown."""
    check_precision(precision)
    parameter = next(model.parameters())
    dtype = PRECISIONS[precision] if precision else parameter.dtype
    timed = model if dtype == parameter.dtype else copy.deepcopy(model).to(dtype)
    images = images.to(parameter.device, dtype)
    seconds = []
    with eval_mode(timed), torch.inference_mode():
        for _ in range(warm_up + batches):
            start = time.perf_counter()
            timed(images)
            if parameter.device.type != "cpu":
                # The call returns before the device has finished.
                torch.accelerator.synchronize(parameter.device)
            seconds.append(time.perf_counter() - start)
    return Throughput(
        images_per_second=images.shape[0] / statistics.median(seconds[warm_up:]),
        batch_size=images.shape[0],
        precision=precision_name(timed),
        device=str(parameter.device),
    )
