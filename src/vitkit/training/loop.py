"""The training loop, which is the same for every objective and model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from vitkit import distributed
from vitkit.data.loader import Batch
from vitkit.evaluation.flops import FlopCounter
from vitkit.layers import BatchNorm
from vitkit.objectives import Objective
from vitkit.training.checkpointing.files import State
from vitkit.training.metrics import Metrics
from vitkit.training.optim import clip_gradients, set_lr, set_weight_decay
from vitkit.training.run import Run
from vitkit.training.schedule import EMA, factor

STEP = 3  # random stream of dropout, stochastic depth and masks; `data.loader` uses 1, 2 and 4


class TrainingStopped(ValueError):  # noqa: N818 - an end, as StopIteration is
    """Raised when a run cannot continue. The failed step has not changed the weights."""


@dataclass
class Training:
    """Training state of a run: objective, optimizer, number of steps and moving average of the weights.

    There is no state of random number generators: the run's seed and the step number determine those of a step.
    """

    run: Run
    objective: Objective
    optimizer: torch.optim.Optimizer
    total: int
    step: int = 0
    ema: EMA | None = None
    scaler: torch.amp.GradScaler | None = None
    flops: float | None = None  # of a step of this process, counted in the first step of each phase of the objective
    counted_phase: int = -1  # phase that `flops` was counted in
    notes: tuple[str, ...] = ()  # of the checkpoint with the initial weights
    module: nn.Module = field(init=False)  # the objective, wrapped for DDP if needed

    def __post_init__(self) -> None:
        """Sets `module` to the objective. With DDP, `module` is later set to the wrapped objective."""
        self.module = self.objective

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the objective. They are cached, because collecting them in every step is slow."""
        return list(self.objective.parameters())

    @cached_property
    def batch_norms(self) -> list[BatchNorm]:
        """The batch norms of the objective that update their running statistics in training."""
        return [each for each in self.objective.modules() if isinstance(each, BatchNorm) and each.training]

    @property
    def consumed(self) -> int:
        """Number of training samples used so far. The data loader of a resumed run skips these samples."""
        return self.step * self.run.batch_size

    def state_dict(self) -> State:
        """Returns the content of a training checkpoint, or only this process's shards of it if the model is sharded."""
        state = {
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.values
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: State) -> None:
        """Restores the output of `state_dict`. The tensors can be full tensors or the shards of this process."""
        own = self.objective.state_dict()
        weights = {
            name: distributed.shard_like(value, own.get(name, value)) for name, value in state["objective"].items()
        }
        self.objective.load_state_dict(weights)
        self.optimizer.load_state_dict(shard_optimizer_state(self.optimizer, state["optimizer"]))
        if self.ema is not None:
            values = self.ema.values
            self.ema.load({name: distributed.shard_like(value, values[name]) for name, value in state["ema"].items()})
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def checkpoint_templates(training: Training) -> dict[str, Tensor]:
    """Returns a current tensor with the same shape and sharding for each tensor of a training checkpoint.

    Optimizer moments do not exist before the first step; their template is the parameter that they belong to.
    """
    templates = {f"objective/{name}": value for name, value in training.objective.state_dict().items()}
    if training.ema is not None:
        templates |= {f"ema/{name}": value for name, value in training.ema.values.items()}
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    return templates | {f"optimizer/state/{number}": parameter for number, parameter in enumerate(parameters)}


def shard_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> State:
    """Shards the tensors of an optimizer's state dict in the same way as the parameters."""
    if "state" not in state:
        return state
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def sharded(value: object, parameter: Tensor) -> object:
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            return distributed.shard_like(value, parameter)
        return value

    moments = {
        number: {name: sharded(value, parameters[number]) for name, value in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": moments}


def fit(training: Training, batches: Iterator[Batch], after: Callable[[Metrics, Batch], bool]) -> None:
    """Trains until the last step, or until the callback `after` returns True.

    `after` is called after every step with its metrics and its batch.
    """
    training.objective.train()
    device = next(training.objective.parameters()).device
    while training.step < training.total:
        batch = next(batches)
        scalars = update(training, batch.to(device))
        training.step += 1
        training.objective.after_step(training.step / training.total)
        if training.ema is not None:
            training.ema.update(training.objective.backbone, training.step)
        if after(scalars, batch):
            return


def update(training: Training, batch: Batch) -> Metrics:
    """Updates the weights once. Returns the metrics of the objective, the learning rate and the gradient norm.

    Raises TrainingStopped before the update if the loss or the gradient is not finite. This check is the only
    synchronization with the device in a step.
    """
    run, step = training.run, training.step
    torch.manual_seed(step_seed(run.seed, step, distributed.rank()))
    lr = run.optimizer.lr * factor(run.schedule, step, training.total)
    set_lr(training.optimizer, lr)
    set_weight_decay(training.optimizer, run.optimizer, step / training.total)
    training.optimizer.zero_grad()
    phase = training.objective.phase
    with FlopCounter() if training.counted_phase != phase else nullcontext() as count:
        scalars = backward(
            training.module, batch, run.grad_accum_steps, precision=run.precision, scaler=training.scaler
        )
    if count is not None:
        training.flops, training.counted_phase = count.total, phase
    if training.scaler is not None:
        training.scaler.unscale_(training.optimizer)
    gradients = [parameter.grad for parameter in training.parameters if parameter.grad is not None]
    norm = distributed.full(nn.utils.get_total_norm(gradients))
    # A gradient scaler handles overflows itself: it skips the update and reduces its scale.
    checked = {"the loss": scalars["loss"]} | ({} if training.scaler else {"the gradient": norm})
    check_finite(checked, batch, step)
    clip_gradients(run.optimizer, training.parameters, norm)
    if training.scaler is None:
        training.optimizer.step()
    else:
        training.scaler.step(training.optimizer)
        training.scaler.update()
    average_statistics(training.batch_norms)
    return Metrics(scalars, {"lr": lr, "grad_norm": norm})


@torch.no_grad()
def average_statistics(layers: Sequence[BatchNorm]) -> None:
    """Replaces the running statistics of batch norms by their means over all processes, in one all-reduce.

    Each process normalizes with the statistics of its own images. Without this, rank 0 would save its own only.
    """
    if distributed.world_size() == 1 or not layers:
        return
    tensors = [tensor for layer in layers for tensor in layer.statistics]
    means = distributed.mean(torch.cat(tensors)).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean)


def backward(
    module: nn.Module,
    batch: Batch,
    parts: int,
    *,
    precision: str = "float32",
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Runs forward and backward passes over `parts` equal parts of a batch, and accumulates the gradients.

    Returns the metrics as means over this process's batch, on its device.
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
    """Splits a batch into equal parts."""
    if parts == 1:
        return [batch]
    size = batch.images.shape[0] // parts
    pairs = zip(batch.images.split(size), batch.targets.split(size), strict=True)
    return [
        Batch(images, targets, batch.keys[index * size : (index + 1) * size])
        for index, (images, targets) in enumerate(pairs)
    ]


def check_finite(values: dict[str, Tensor], batch: Batch, step: int) -> None:
    """Raises TrainingStopped if a value is not finite in any process. The message lists the images of the batch.

    Costs one copy from the device and one all-reduce for all values.
    """
    finite = torch.stack([value.detach().isfinite() for value in values.values()]).tolist()
    broken = distributed.all_reduce_sum(*(int(not each) for each in finite))
    if any(broken):
        what = " and ".join(name for name, number in zip(values, broken, strict=True) if number)
        keys = ", ".join(distributed.all_gather(batch.keys))
        raise TrainingStopped(
            f"{what} is not finite in step {step}; no weights were updated. The batch contains the images {keys}"
        )


def step_seed(seed: int, step: int, rank: int) -> int:
    """Returns the random seed for dropout, stochastic depth and masks of one step in one process."""
    return int(np.random.SeedSequence([seed, STEP, step, rank]).generate_state(1, np.uint64)[0])
