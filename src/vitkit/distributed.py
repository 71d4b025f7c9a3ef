"""Distributed training with torch.distributed: process group, data-parallel wrappers and collectives.

Level 0. Only this module and `training/checkpointing` use torch.distributed. torchrun starts the processes. Without
torchrun, the world size is 1 and torch.distributed is not imported. There are two kinds of parallelism: `ddp`, where
every process has the full model, and `fsdp` (FSDP2), where every process has a shard of the model.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["none", "ddp", "fsdp"]
# The other processes wait while the main process evaluates.
TIMEOUT = timedelta(hours=6)


def world_size() -> int:
    """Returns the number of processes, which is 1 without distributed training."""
    return _group().get_world_size() if _joined() else 1


def rank() -> int:
    """Returns the rank of this process, which is 0 without distributed training."""
    return _group().get_rank() if _joined() else 0


def is_main_process() -> bool:
    """Returns whether this process has rank 0. Only this process writes files and messages."""
    return rank() == 0


@contextmanager
def process_group(device: str = "auto", kind: Kind = "none") -> Iterator[torch.device]:
    """Context manager that initializes the process group and yields the device. `auto` selects a GPU if available.

    Raises ValueError for an unknown device, and if `kind` does not fit the number of processes.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and kind == "none":
        raise ValueError(f"{launched} processes were launched, but the run is not parallel; use --parallel ddp or fsdp")
    if launched == 1 and kind == "fsdp":
        raise ValueError("fsdp needs at least two processes, but only one is running; start the run with torchrun")
    chosen = _device(device)
    if launched == 1:
        yield chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    _group().init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield chosen
    finally:
        _group().destroy_process_group()


def shard(module: nn.Module, kind: Kind, blocks: Iterable[nn.Module] = ()) -> None:
    """Shards all parameters in place if `kind` is "fsdp". Parameters of `blocks` are gathered one block at a time."""
    if kind != "fsdp":
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def wrap(module: nn.Module, kind: Kind = "none") -> nn.Module:
    """Wraps a module in DistributedDataParallel if `kind` is "ddp", to average gradients over all processes."""
    if kind != "ddp" or world_size() == 1:
        return module
    # Objectives do not use all parameters of the model; masked prediction does not use the head, for example.
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


def no_sync(module: nn.Module) -> AbstractContextManager[None]:
    """Returns a context manager that disables gradient synchronization. Used for all micro-batches except the last."""
    return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()


def mean(value: Tensor) -> Tensor:
    """Returns the mean of a tensor over all processes."""
    if world_size() == 1:
        return value
    value = value.clone()
    _group().all_reduce(value)
    return value / world_size()


def any_true(flag: bool) -> bool:
    """Returns whether the flag is True in any process."""
    return all_reduce_max(int(flag)) > 0


def all_reduce_max(number: int) -> int:
    """Returns the maximum of an integer over all processes."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, device=_own_device())
    _group().all_reduce(tensor, op=_group().ReduceOp.MAX)
    return int(tensor.item())


def all_reduce_sum(*numbers: int) -> list[int]:
    """Returns the sum of each number over all processes. All sums use one all-reduce."""
    if world_size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, device=_own_device())
    _group().all_reduce(tensor)
    return [int(number) for number in tensor.tolist()]


def broadcast(number: float) -> float:
    """Returns the argument of rank 0 in every process. All processes must call this function."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, dtype=torch.float64, device=_own_device())
    _group().broadcast(tensor, src=0)
    return float(tensor.item())


def on_rank_zero(action: Callable[[], None]) -> None:
    """Runs an action on rank 0 while the other processes wait. Errors of the action are raised in every process.

    ValueError, OSError and ImportError of the action are raised in all processes; otherwise a failing rank 0 would
    leave the others waiting.
    """
    failure: list[tuple[type[Exception], str] | None] = [None]
    if is_main_process():
        try:
            action()
        except (ValueError, OSError, ImportError) as error:
            if world_size() == 1:
                raise
            kind = next(each for each in (OSError, ImportError, ValueError) if isinstance(error, each))
            failure = [(kind, str(error))]
    if world_size() > 1:
        _group().broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        kind, text = failure[0]
        raise kind(text)


@contextmanager
def exit_after_rank_zero(*exceptions: type[BaseException]) -> Iterator[None]:
    """Context manager that delays the exceptions of other processes until rank 0 has raised an exception.

    torchrun stops all other processes as soon as one of them fails.
    """
    try:
        yield
    except exceptions:
        broadcast(0.0)
        raise


def background_group() -> Any:
    """Returns a new CPU process group for background communication, or None for a single process.

    All processes must call it.
    """
    return _group().new_group(backend="gloo", timeout=TIMEOUT) if world_size() > 1 else None


def all_gather(names: tuple[str, ...]) -> tuple[str, ...]:
    """Gathers a tuple of names from each process. Returns all names, concatenated in rank order."""
    if world_size() == 1:
        return names
    gathered: list[tuple[str, ...]] = [()] * world_size()
    _group().all_gather_object(gathered, names)
    return tuple(name for part in gathered for name in part)


def full(value: Any) -> Any:
    """Replaces sharded tensors in nested containers with full (unsharded) tensors. All processes must call this."""
    if world_size() == 1:
        return value
    if isinstance(value, dict):
        return {key: full(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full(item) for item in value)
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def is_shard(value: Tensor) -> bool:
    """Returns whether a tensor is a DTensor, of which this process stores only a shard."""
    return hasattr(value, "device_mesh")


def shard_like(value: Tensor, other: Tensor) -> Tensor:
    """Shards a full tensor in the same way as `other`. Returns `value` itself if no change is needed."""
    if world_size() == 1 or not is_shard(other) or is_shard(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(value.to(_own_device()), other.device_mesh, other.placements)


def _group() -> ModuleType:
    import torch.distributed

    return torch.distributed


def _joined() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and _group().is_available() and _group().is_initialized()


def _own_device() -> torch.device:
    nccl = _group().get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def _device(name: str) -> torch.device:
    if name == "auto" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device '{name}'; choose one of auto, cpu, cuda, cuda:0, mps") from None
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    number = torch.accelerator.device_count() if found is not None and found.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= number:
        others = f"{number} of type {device.type}" if number else f"none of type {device.type}"
        raise ValueError(f"the device is '{name}', but this machine has {others}; choose another device, auto or cpu")
    return device
