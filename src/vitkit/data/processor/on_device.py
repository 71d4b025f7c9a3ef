"""Normalisation on the device of the model: only bytes are copied, a quarter of the size of float32."""

from functools import lru_cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitkit.data.processor.normalization import table
from vitkit.data.processor.processor import Processor


def handed(pixels: UInt8[Tensor, "b h w c"], device: torch.device) -> UInt8[Tensor, "b h w c"]:
    """Copy pixels to a device; from pinned memory to a GPU, so that the copy is asynchronous."""
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


def numbers(processor: Processor, pixels: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """Normalise a batch on its device, bit for bit equal to `Processor.normalize`."""
    values = _values(processor, pixels.device)
    planes = [values[channel][pixels[..., channel].long()] for channel in range(processor.channels)]
    return torch.stack(planes, dim=1)


@lru_cache(maxsize=16)
def _values(processor: Processor, device: torch.device) -> Float[Tensor, "c 256"]:
    return torch.from_numpy(table(processor.rescale, tuple(processor.mean), tuple(processor.std))).to(device)
