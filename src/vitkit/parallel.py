"""Processes that train together: who am I, how many are we, and numbers agreed between all. The only user of
torch.distributed.

Level 0. One process today: everything answers for a world of one, and a launch with more is refused before it computes
anything, so that no run believes it is parallel when it is not.
"""

import os

import torch
from torch import Tensor, nn


def world_size() -> int:
    """How many processes train together."""
    return 1


def rank() -> int:
    """The number of this process among them."""
    return 0


def is_main() -> bool:
    """Whether this process writes files and messages."""
    return rank() == 0


def start(device: str = "auto") -> torch.device:
    """Joins the others and gives this process's device: `auto` is a GPU if there is one.

    Raises ValueError for an unknown device and for a torchrun launch of several processes.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1:
        raise ValueError(f"launched as {launched} processes, but training runs in one: leave torchrun out")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device '{device}'; there is auto, cpu, cuda, cuda:0, mps") from None


def wrap(module: nn.Module) -> nn.Module:
    """The module as the loop calls it: itself where one process holds all of it."""
    return module


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes."""
    return value


def any_true(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return flag
