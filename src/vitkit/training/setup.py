"""Builds the model, objective and optimizer of a run, and returns the model to evaluate and save.

Order: weights, trainable parameters, objective, device, activation checkpointing, sharding, compilation, optimizer,
wrapper.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitkit import checkpoints, distributed, memory, models, objectives
from vitkit.checkpoints import meaning
from vitkit.evaluation.flops import FlopCounter, exclude_recomputation
from vitkit.models import Backbone
from vitkit.training import optim, tuning
from vitkit.training.loop import Training
from vitkit.training.run import Run
from vitkit.training.schedule import EMA


def build_training(run: Run, total: int, device: torch.device) -> Training:
    """Builds the training state of a run of `total` steps, with initial weights from the seed of the run."""
    torch.manual_seed(run.seed)
    # On the CPU, so that a seed gives the same weights on every device.
    notes: list[str] = []
    backbone = initial_model(run, notes)
    tuning.apply(run.tuning, backbone)
    objective = objectives.build(run.objective, backbone).to(device)
    blocks = objective.blocks()
    for setting in ("activation_checkpointing", "compile"):
        if getattr(run.hardware, setting) and not blocks:
            raise ValueError(
                f"hardware.{setting} needs encoder blocks, but the model family '{backbone.family}' has none; "
                "set it to false"
            )
    if run.hardware.activation_checkpointing:
        enable_activation_checkpointing(blocks)
    distributed.shard(objective, run.hardware.parallel, blocks)
    if run.hardware.compile:
        for block in blocks:
            block.compile()
    training = Training(run, objective, optim.build(run.optimizer, objective), total, notes=tuple(notes))
    training.module = distributed.wrap(objective, run.hardware.parallel)
    if run.ema is not None:
        training.ema = EMA(objective.backbone, run.ema)
    if run.precision == "float16":
        training.scaler = torch.amp.GradScaler(device.type)
    return training


def initial_model(run: Run, notes: list[str] | None = None) -> Backbone:
    """Builds the model of a run on the CPU, with weights from the checkpoint `run.init_from` if it is set.

    Resizes the position embedding of a checkpoint to the image size of the run, adapts its input weights to the number
    of channels, and initializes its head by `run.init_head` (zeros: ViT paper, section 3.2). The notes of the
    checkpoint are added to `notes`. Raises ValueError if the checkpoint has another architecture.
    """
    model = models.build(run.model, initialize=run.init_from is None or run.init_head == "random")
    if run.init_from is None:
        return model
    height, width = run.model.image_size
    num_classes = None if run.init_head == "checkpoint" else run.model.num_classes
    loaded = checkpoints.load(
        run.init_from, image_size=(height, width), num_classes=num_classes, channels=run.model.channels
    )
    if run.init_head == "checkpoint" and run.model.task.regression:
        meaning.rescale_head(loaded.model, loaded.model.config.task, run.model.task)
    state = loaded.model.state_dict()
    if notes is not None:
        notes.extend(loaded.origin.notes)
    actual = {name: tuple(tensor.shape) for name, tensor in state.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    differ = [name for name in sorted(actual.keys() | expected.keys()) if actual.get(name) != expected.get(name)]
    if differ:
        name = differ[0]
        shapes = f"'{name}' is {actual.get(name, 'missing')} instead of {expected.get(name, 'missing')}"
        raise ValueError(
            f"the checkpoint '{run.init_from}' has a different architecture from the run: {shapes} "
            f"({len(differ)} tensors differ)"
        )
    if run.init_head == "random":
        state |= {name: parameter.detach() for name, parameter in model.head_parameters().items()}
    model.load_state_dict(state)
    return model


def enable_activation_checkpointing(blocks: Iterable[nn.Module]) -> None:
    """Enables activation checkpointing of every encoder block. Recomputation uses the same dropout masks."""
    for block in blocks:
        block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # Only in the step whose FLOPs are counted: torch.compile gives context_fn another meaning.
    context = {"context_fn": exclude_recomputation} if FlopCounter.counting else {}
    return checkpoint(forward, *args, use_reentrant=False, **context, **kwargs)


def evaluation_model(training: Training) -> Backbone:
    """Returns the model to evaluate and save: unsharded, with the EMA weights and with LoRA updates merged.

    This is the trained model itself if none of these apply. All processes must call it.
    """
    backbone, run = training.objective.backbone, training.run
    if training.ema is None and not run.tuning.lora_rank and run.hardware.parallel != "fsdp":
        return backbone
    state = distributed.full(backbone.state_dict())
    if training.ema is not None:
        state |= distributed.full(training.ema.values)
    # A new model: a wrapped, compiled or parametrized one cannot be copied without its wrappers.
    model = models.build(backbone.config, initialize=False).to(next(iter(state.values())).device)
    model.load_state_dict(tuning.merge_low_rank(state, run.tuning))
    return model


@contextmanager
def process_settings(run: Run, device: torch.device, *, keep_memory: bool = False) -> Iterator[None]:
    """Context manager that applies the process-wide settings of a run, and restores the previous ones on exit.

    These are torch's number of threads, TF32 matrix products and, with `keep_memory` on a CPU, `vitkit.memory.kept`.
    """
    with ExitStack() as restore:
        if run.hardware.threads is not None:
            restore.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(run.hardware.threads)
        if run.hardware.tf32:
            restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        if keep_memory and device.type == "cpu":
            restore.enter_context(memory.kept())
        yield
