"""Processes that train together: who am I, how many are we, and numbers agreed between all. The only user of
torch.distributed.

Level 0. torchrun starts the processes; without it everything answers for a world of one, and nothing is imported. Two
ways to share: `ddp`, every process holds the whole model, and `fsdp` (FSDP2), every process holds a shard of it.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["none", "ddp", "fsdp"]
# While the main process evaluates, the others wait for it.
LONGEST_WAIT = timedelta(hours=6)


def world_size() -> int:
    """How many processes train together."""
    return _group().get_world_size() if _joined() else 1


def rank() -> int:
    """The number of this process among them."""
    return _group().get_rank() if _joined() else 0


def is_main() -> bool:
    """Whether this process writes files and messages."""
    return rank() == 0


@contextmanager
def together(device: str = "auto", kind: Kind = "none") -> Iterator[torch.device]:
    """Joins the others while it is entered, and gives this process's device: `auto` is a GPU if there is one.

    Raises ValueError for an unknown device, and for a launch of several processes that have not been told how to share.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and kind == "none":
        raise ValueError(f"launched as {launched} processes: say how they share, with --parallel ddp or fsdp")
    if launched == 1 and kind == "fsdp":
        raise ValueError("fsdp shares a model among processes, but there is one: launch with torchrun")
    place = _device(device)
    if launched == 1:
        yield place
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    _group().init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        yield place
    finally:
        _group().destroy_process_group()


def shard(module: nn.Module, kind: Kind, blocks: Iterable[nn.Module] = ()) -> None:
    """With `fsdp`, leaves this process its shard of every parameter, in place; `blocks` are gathered one at a time."""
    if kind != "fsdp":
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def wrap(module: nn.Module, kind: Kind = "none") -> nn.Module:
    """The module as the loop calls it, so that gradients become means over all processes; the parameters stay its
    own.
    """
    if kind != "ddp" or world_size() == 1:
        return module
    # An objective need not use every parameter of its model (masked prediction has no use for a head).
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)


def accumulating(module: nn.Module) -> Any:
    """A context in which gradients are only added up, not yet exchanged: for all parts of a batch but the last."""
    return module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return value
    value = value.clone()
    _group().all_reduce(value)
    return value / world_size()


def any_true(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return largest(int(flag)) > 0


def largest(number: int) -> int:
    """The largest of the numbers of all processes."""
    if world_size() == 1:
        return number
    held = torch.tensor(number, device=_own_device())
    _group().all_reduce(held, op=_group().ReduceOp.MAX)
    return int(held.item())


def totals(*numbers: int) -> list[int]:
    """The sum over all processes of each number, in one all-reduce."""
    if world_size() == 1:
        return list(numbers)
    held = torch.tensor(numbers, device=_own_device())
    _group().all_reduce(held)
    return [int(number) for number in held.tolist()]


def from_main(number: float) -> float:
    """The main process's number, in every process; the others wait here until it has come."""
    if world_size() == 1:
        return number
    held = torch.tensor(number, dtype=torch.float64, device=_own_device())
    _group().broadcast(held, src=0)
    return float(held.item())


def by_main(action: Callable[[], None]) -> None:
    """Lets the main process do something while the others wait; what it refuses is refused in all of them.

    So a launch that cannot be ends with one reason, and not with processes that lost the one they waited for.
    """
    refusal: list[tuple[type[Exception], str] | None] = [None]
    if is_main():
        try:
            action()
        except (ValueError, OSError, ImportError) as error:
            if world_size() == 1:
                raise
            kind = next(each for each in (OSError, ImportError, ValueError) if isinstance(error, each))
            refusal = [(kind, str(error))]
    if world_size() > 1:
        _group().broadcast_object_list(refusal, src=0)
    if refusal[0] is not None:
        kind, text = refusal[0]
        raise kind(text)


@contextmanager
def leaving_together(*agreed: type[BaseException]) -> Iterator[None]:
    """With exceptions that all processes raise, lets none go before the main one has: the first to go ends the rest."""
    try:
        yield
    except agreed:
        from_main(0.0)
        raise


def background_group() -> Any:
    """A way of its own for what goes on beside the training, on the CPU; None for a world of one. All must ask."""
    return _group().new_group(backend="gloo", timeout=LONGEST_WAIT) if world_size() > 1 else None


def everyones(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that each process has, in the order of the processes."""
    if world_size() == 1:
        return names
    found: list[tuple[str, ...]] = [()] * world_size()
    _group().all_gather_object(found, names)
    return tuple(name for part in found for name in part)


def whole(value: Any) -> Any:
    """Anything with tensors in it, each made whole out of its shards; all processes take part."""
    if world_size() == 1:
        return value
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def is_shard(value: Tensor) -> bool:
    """Whether a tensor is this process's part of one that all of them have together."""
    return hasattr(value, "device_mesh")


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor as `other` is: this process's shard of it, where that is one; a shard stays what it is."""
    if world_size() == 1 or not is_shard(other) or is_shard(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(value.to(_own_device()), other.device_mesh, other.placements)


def _group() -> Any:
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
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device '{name}'; there is auto, cpu, cuda, cuda:0, mps") from None
