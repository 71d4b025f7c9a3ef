"""Levels to numbers where the model is: a GPU is handed bytes, a quarter of the numbers, and normalises them itself."""

from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitkit.data.processor.normalization import table
from vitkit.data.processor.processor import Processor


def handed(levels: UInt8[Tensor, "b h w c"], device: torch.device) -> UInt8[Tensor, "b h w c"]:
    """The levels on that device; from pinned memory where that lets the copy go on beside the network."""
    if device.type != "cuda":
        return levels.to(device)
    return levels.pin_memory().to(device, non_blocking=True)


def numbers(processor: Processor, levels: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """What `Processor.numbers` gives for each picture, to the bit, on the device that the levels are on."""
    values = _values(processor, levels.device)
    planes = [values[channel][levels[..., channel].long()] for channel in range(processor.channels)]
    return torch.stack(planes, dim=1)


@lru_cache(maxsize=16)
def _values(processor: Processor, device: torch.device) -> Float[Tensor, "c 256"]:
    return torch.from_numpy(table(processor.rescale, tuple(processor.mean), tuple(processor.std))).to(device)
