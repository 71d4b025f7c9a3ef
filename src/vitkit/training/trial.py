"""Short trial of a run, which measures the time of training steps and evaluations, and the peak memory.

The trial loads real batches and trains a separate model, which is discarded. The run itself starts with the same
initial weights as without a trial.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import numpy as np
import torch

from vitkit import distributed, evaluation
from vitkit.data import Source, Subset
from vitkit.data.augment import Transform
from vitkit.data.loader import Batch, Stream, evaluation_batches, training_batches
from vitkit.data.unreadable import TooManyUnreadable, Unreadable
from vitkit.models import Backbone
from vitkit.training import plan as plans
from vitkit.training.events import memory_in_use
from vitkit.training.loop import Training, TrainingStopped, fit
from vitkit.training.metrics import Metrics
from vitkit.training.plan import Costs
from vitkit.training.setup import evaluation_model
from vitkit.training.summary import autocast_dtype

# Steps are timed until SECONDS have passed, but at least LEAST and at most MOST steps.
LEAST, MOST, SECONDS = 3, 50, 3.0
# Largest number of images in the evaluation that is measured.
IMAGES = 64


def measure(training: Training, source: Source, validation: Source, stream: Stream) -> Costs | None:
    """Measures the costs of a run with some training steps of `training` and a part of an evaluation.

    The training steps change `training`. All processes must call this function. Returns None if no step can be timed,
    because the loss is not finite or too many images are unreadable. The run then fails in its first steps, with the
    same error. Raises TrainingStopped if the device has too little memory.
    """
    run = training.run
    device = next(training.objective.parameters()).device
    transform = Transform(run.processor, run.augment, run.data.limits)
    # The first step counts FLOPs and, with `hardware.compile`, the second step compiles. These steps are not timed.
    warm = 2 if run.hardware.compile else 1
    times: list[float] = []

    def after(scalars: Metrics, batch: Batch) -> bool:
        _synchronize(device)
        times.append(plans.now())
        timed = len(times) - warm
        enough = timed >= MOST or (timed >= LEAST and times[-1] - times[warm - 1] >= SECONDS)
        return distributed.broadcast(float(enough)) > 0.0

    with explained(run.batch_size, device):
        try:
            fit(training, training_batches(source, transform, stream), after)
        except (TrainingStopped, TooManyUnreadable):
            return None
        model = evaluation_model(training)
        images = len(validation)
        if any(evaluation.reads(name) == "representations" for name in run.evaluators):
            images += len(source)
        seconds = _image_seconds(model, training, validation) if distributed.is_main_process() else 0.0
    steps = [end - start for start, end in zip(times[warm - 1 :], times[warm:], strict=False)]
    if not steps:
        return None
    # The median is robust to single slow steps. For few steps, the mean is used.
    step = median(steps) if len(steps) > 2 * LEAST else sum(steps) / len(steps)
    return Costs(
        step=distributed.broadcast(step),
        evaluation=distributed.broadcast(images * seconds),
        memory=memory_in_use(),
        trial_steps=len(steps),
        device=_name(device),
    )


def _image_seconds(model: Backbone, training: Training, validation: Source) -> float:
    """Returns the evaluation time per image in seconds, measured on evenly spaced validation images."""
    run = training.run
    size = min(run.batch_size, IMAGES, len(validation))
    chosen = Subset(validation, np.linspace(0, len(validation) - 1, size).astype(int))
    device = next(model.parameters()).device
    transform = Transform(run.processor, limits=run.data.limits)
    outputs = evaluation.ModelOutputs(model, list, validation.classes, autocast=autocast_dtype(run))
    found: list[tuple[float, float]] = []
    for _ in range(2):  # the first pass is a warm-up
        start = plans.now()
        batches = list(evaluation_batches(chosen, transform, batch_size=size, unreadable=Unreadable(size + 1)))
        loaded = plans.now()
        list(outputs.rows(partial(list, batches), logits=True))
        _synchronize(device)
        found.append((loaded - start, plans.now() - loaded))
    loading, forward = found[-1]
    workers = run.hardware.workers
    return (loading + forward if not workers else max(loading / workers, forward)) / size


@contextmanager
def explained(batch_size: int, device: torch.device) -> Iterator[None]:
    """Context manager that converts out-of-memory errors to TrainingStopped with a short message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in text:
            raise
        raise TrainingStopped(
            f"a batch of {batch_size} images does not fit into the memory of {device}; set a smaller batch_size, "
            "grad_accum_steps above 1, or hardware.activation_checkpointing=true"
        ) from error


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'s' * (threads != 1)})" if device.type == "cpu" else device.type
