"""The start of a run, and its model as it is judged and saved: all that is applied to a model from outside, in order.

Weights, then what of them learns, then the objective, device, recomputation, shards, compilation, wrapper, optimiser.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitkit import distributed, models, objectives
from vitkit.evaluate.flops import Count, recomputing
from vitkit.models import Backbone
from vitkit.train import memory, optim, start, tune
from vitkit.train.average import Average
from vitkit.train.loop import Training
from vitkit.train.run import Run


def begin(run: Run, total: int, device: torch.device) -> Training:
    """A run before its first step, its fresh weights drawn from its seed."""
    torch.manual_seed(run.seed)
    # Made on the CPU, so that a seed means the same weights on every device.
    backbone = start.backbone(run)
    tune.apply(run.tune, backbone)
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
    told = {"context_fn": recomputing} if Count.counting else {}
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
    model.load_state_dict(tune.merged(state, run.tune))
    return model


@contextmanager
def machine(run: Run, device: torch.device) -> Iterator[None]:
    """The threads of torch and the precision of matrix products that a run asks for, while it is entered; on a CPU its
    memory stays with the process.
    """
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(run.machine.threads or threads)
    torch.set_float32_matmul_precision("high" if run.machine.tf32 else products)
    try:
        with memory.kept() if device.type == "cpu" else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
