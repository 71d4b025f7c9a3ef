"""The start of a run, and its model as it is judged and saved: all that is applied to a model from outside, in order.

Weights, then what of them learns, then the objective, device, recomputation, shards, compilation, wrapper, optimiser.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitkit import checkpoints, distributed, memory, models, objectives
from vitkit.evaluate.flops import FlopCounter, exclude_recomputation
from vitkit.models import Backbone
from vitkit.train import optim, tuning
from vitkit.train.loop import Training
from vitkit.train.run import Run
from vitkit.train.schedule import Average


def begin(run: Run, total: int, device: torch.device) -> Training:
    """A run before its first step, its fresh weights drawn from its seed."""
    torch.manual_seed(run.seed)
    # Made on the CPU, so that a seed means the same weights on every device.
    backbone = initial_model(run)
    tuning.apply(run.tune, backbone)
    objective = objectives.build(run.objective, backbone).to(device)
    blocks = objective.blocks()
    if not blocks and (run.machine.recompute or run.machine.compile):
        setting = "recompute" if run.machine.recompute else "compile"
        raise ValueError(
            f"machine.{setting} works on encoder blocks, and the family {backbone.family} has none: leave it off"
        )
    if run.machine.recompute:
        recompute(blocks)
    distributed.shard(objective, run.machine.parallel, blocks)
    if run.machine.compile:
        for block in blocks:
            block.compile()
    training = Training(run, objective, optim.build(run.optimizer, objective), total)
    training.module = distributed.wrap(objective, run.machine.parallel)
    if run.average is not None:
        training.average = Average(objective.backbone, run.average)
    if run.precision == "float16":
        training.scaler = torch.amp.GradScaler(device.type)
    return training


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Lets blocks keep only their input; what is inside is computed again in the backward pass, dropout included."""
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # Only the step that is counted is told: contexts mean something else to a compiler.
    told = {"context_fn": exclude_recomputation} if FlopCounter.counting else {}
    return checkpoint(forward, *args, use_reentrant=False, **told, **kwargs)


def judged(training: Training) -> Backbone:
    """The model as it is evaluated and saved, on this process's device: whole, averaged and merged.

    The trained one itself where that is all; all processes take part.
    """
    backbone, run = training.objective.backbone, training.run
    if training.average is None and not run.tune.lora_rank and run.machine.parallel != "fsdp":
        return backbone
    state = distributed.full(backbone.state_dict())
    if training.average is not None:
        state |= distributed.full(training.average.values)
    # A new one: what is wrapped, compiled or parametrised cannot be copied without its wrapping.
    model = models.build(backbone.config, initialise=False).to(next(iter(state.values())).device)
    model.load_state_dict(tuning.merged(state, run.tune))
    return model


@contextmanager
def machine(run: Run, device: torch.device, *, keep_memory: bool = False) -> Iterator[None]:
    """Apply the settings of the whole process that were asked for, and restore them afterwards; no others change.

    The run may ask for a number of torch's threads and for TF32 matrix products; with `keep_memory` a process that
    trains on the CPU keeps the memory that it frees (`vitkit.memory.kept`).
    """
    with ExitStack() as restore:
        if run.machine.threads is not None:
            restore.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(run.machine.threads)
        if run.machine.tf32:
            restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        if keep_memory and device.type == "cpu":
            restore.enter_context(memory.kept())
        yield


def initial_model(run: Run) -> Backbone:
    """The model of a run before its first step, on the CPU.

    A checkpoint's position table is resized to the run's pictures and its head replaced by a zero one (ViT paper,
    section 3.2), by one drawn as in a fresh model, or kept. Raises ValueError where it is of another architecture, by
    what differs.
    """
    model = models.build(run.model, initialise=run.start is None or run.start_head == "drawn")
    if run.start is None:
        return model
    size, classes = tuple(run.model.image_size), run.model.num_classes
    new = None if run.start_head == "kept" else classes
    given = checkpoints.load(run.start, image_size=(size[0], size[1]), num_classes=new).model
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in given.state_dict().items()}
    differ = [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]
    if differ:
        name = differ[0]
        shapes = f"'{name}' is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        raise ValueError(f"'{run.start}' is of another architecture than the run: {shapes} ({len(differ)} differ)")
    state = given.state_dict()
    if run.start_head == "drawn":
        state |= {name: parameter.detach() for name, parameter in model.head_parameters().items()}
    model.load_state_dict(state)
    return model
