"""The one training loop: every objective, every model; it has no branch on either."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitkit import distributed
from vitkit.data.loader import Batch
from vitkit.evaluate.flops import FlopCounter
from vitkit.objectives import Objective
from vitkit.train.metrics import Metrics
from vitkit.train.optim import clip_gradients, set_decay, set_rate
from vitkit.train.run import Run
from vitkit.train.schedule import Average, factor

STEP = 3  # the stream of random numbers for dropout and the like; `data.loader` has 1 and 2


class TrainingStopped(ValueError):  # noqa: N818 - an end, as StopIteration is
    """The run cannot go on as it is; nothing was updated."""


@dataclass
class Training:
    """All that a run changes as it goes; what is random in a step depends on (seed, step) alone, so it needs no
    saving.
    """

    run: Run
    objective: Objective
    optimizer: torch.optim.Optimizer
    total: int
    step: int = 0
    average: Average | None = None
    scaler: torch.amp.GradScaler | None = None
    flops: float | None = None  # of one step of this process, counted in the first one of a phase of the objective
    counted: int = -1  # the phase that they were counted in
    module: nn.Module = field(init=False)  # the objective as it is called: wrapped, where processes train together

    def __post_init__(self) -> None:
        """One process calls the objective itself."""
        self.module = self.objective

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the objective; listed once, for a walk over all modules is felt in every step of a small model."""
        return list(self.objective.parameters())

    @property
    def consumed(self) -> int:
        """How many training samples have been used: all there is to know about the loader."""
        return self.step * self.run.batch_size

    def state_dict(self) -> dict[str, Any]:
        """What is saved; its tensors are this process's shards, where the model is sharded."""
        state = {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.values
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to what was saved: whole tensors, of which a process takes its shard, or its shards."""
        own = self.objective.state_dict()
        weights = {
            name: distributed.shard_like(value, own.get(name, value)) for name, value in state["objective"].items()
        }
        self.objective.load_state_dict(weights)
        self.optimizer.load_state_dict(shares(self.optimizer, state["optimizer"]))
        if self.average is not None:
            values = self.average.values
            self.average.load(
                {name: distributed.shard_like(value, values[name]) for name, value in state["average"].items()}
            )
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def places(training: Training) -> dict[str, Tensor]:
    """For the tensors in a state of a run, by their paths there, those that lie as they have to here.

    The moments of an optimiser are not there before its first step; they lie as their parameter does.
    """
    places = {f"objective/{name}": value for name, value in training.objective.state_dict().items()}
    if training.average is not None:
        places |= {f"average/{name}": value for name, value in training.average.values.items()}
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    return places | {f"optimizer/state/{number}": parameter for number, parameter in enumerate(parameters)}


def shares(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimiser with every tensor as the parameter it belongs to is: a shard, where that is one."""
    if "state" not in state:
        return state
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def fitted(value: Any, parameter: Tensor) -> Any:
        whole = isinstance(value, Tensor) and value.shape == parameter.shape
        return distributed.shard_like(value, parameter) if whole else value

    moments = {
        number: {name: fitted(value, parameters[number]) for name, value in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": moments}


def fit(training: Training, batches: Iterator[Batch], after: Callable[[Metrics, Batch], bool]) -> None:
    """Updates the weights until the run is over, or until `after`, called with the scalars of each step, says to
    stop.
    """
    training.objective.train()
    device = next(training.objective.parameters()).device
    while training.step < training.total:
        batch = next(batches)
        scalars = update(training, batch.to(device))
        training.step += 1
        training.objective.after_step(training.step / training.total)
        if training.average is not None:
            training.average.update(training.objective.backbone, training.step)
        if after(scalars, batch):
            return


def update(training: Training, batch: Batch) -> Metrics:
    """One update of the weights, and the objective's scalars with the learning `rate` and the gradient's `norm`.

    Raises TrainingStopped, before anything is changed, where the loss or the gradient is not finite: that is the one
    thing for which every step waits for the device.
    """
    run, step = training.run, training.step
    torch.manual_seed(step_seed(run.seed, step, distributed.rank()))
    rate = run.optimizer.rate * factor(run.schedule, step, training.total)
    set_rate(training.optimizer, rate)
    set_decay(training.optimizer, run.optimizer, step / training.total)
    training.optimizer.zero_grad()
    phase = training.objective.phase
    with FlopCounter() if training.counted != phase else nullcontext() as count:
        scalars = backward(training.module, batch, run.accumulate, precision=run.precision, scaler=training.scaler)
    if count is not None:
        training.flops, training.counted = count.total, phase
    if training.scaler is not None:
        training.scaler.unscale_(training.optimizer)
    gradients = [parameter.grad for parameter in training.parameters if parameter.grad is not None]
    norm = distributed.full(nn.utils.get_total_norm(gradients))
    # With a scaler, a gradient that overflowed is its business: it leaves the update out and scales less.
    watched = {"the loss": scalars["loss"]} | ({} if training.scaler else {"the gradient": norm})
    refuse_non_finite(watched, batch, step)
    clip_gradients(run.optimizer, training.parameters, norm)
    if training.scaler is None:
        training.optimizer.step()
    else:
        training.scaler.step(training.optimizer)
        training.scaler.update()
    return Metrics(scalars, {"rate": rate, "norm": norm})


def backward(
    module: nn.Module,
    batch: Batch,
    parts: int,
    *,
    precision: str = "float32",
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Adds up the gradients of a batch in equal parts, one after the other.

    The scalars are means over this process's batch, on its device.
    """
    sums: dict[str, Tensor] = {}
    kind, low = batch.images.device.type, precision != "float32"
    for number, part in enumerate(split(batch, parts)):
        with distributed.no_sync(module) if number < parts - 1 else nullcontext():
            with torch.autocast(kind, dtype=getattr(torch, precision)) if low else nullcontext():
                scalars = module(part)
            loss = scalars["loss"] / parts
            (loss if scaler is None else scaler.scale(loss)).backward()
        for name, value in scalars.items():
            sums[name] = sums.get(name, 0.0) + value.detach() / parts
    return sums


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch in equal parts."""
    if parts == 1:
        return [batch]
    size = batch.images.shape[0] // parts
    pairs = zip(batch.images.split(size), batch.targets.split(size), strict=True)
    return [
        Batch(images, targets, batch.keys[index * size : (index + 1) * size])
        for index, (images, targets) in enumerate(pairs)
    ]


def refuse_non_finite(values: dict[str, Tensor], batch: Batch, step: int) -> None:
    """Raises TrainingStopped that names the batch where a value of any process is not finite.

    One read of the device for all values, and one all-reduce.
    """
    finite = torch.stack([value.detach().isfinite() for value in values.values()]).tolist()
    broken = distributed.all_reduce_sum(*(int(not each) for each in finite))
    if any(broken):
        what = " and ".join(name for name, number in zip(values, broken, strict=True) if number)
        keys = ", ".join(distributed.all_gather(batch.keys))
        raise TrainingStopped(f"{what} is not finite in step {step}; nothing was updated. The batch: {keys}")


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all that is random in one step of one process: dropout, stochastic depth, masks."""
    return int(np.random.SeedSequence([seed, STEP, step, rank]).generate_state(1, np.uint64)[0])
