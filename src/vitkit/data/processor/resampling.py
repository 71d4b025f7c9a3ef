"""Preprocessing with torch: the resampling of transformers' torchvision processors, and normalization on a device.

Pillow and torch use the same filters with different rounding: on typical images, one pixel in fifty differs by one or
two, and more where Pillow 13 resizes the rows before the columns. transformers 5 uses torch by default; `Processor`
uses Pillow. A GPU gets 8-bit pixels, a quarter of the size of float32, and normalizes them itself.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from vitkit.data.processor.geometry import MAX_RESIZED, crop_start
from vitkit.data.processor.normalization import normalize_fused, table
from vitkit.data.processor.processor import FileOptions, ImageInput, Processor, is_in_memory
from vitkit.images import DEFAULT_LIMITS, Limits, open_rgb_pixels


def array(
    processor: Processor,
    image: ImageInput,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_truncated: bool = False,
) -> Float32[np.ndarray, "c h w"]:
    """Preprocesses one image and resizes it with torch, as in transformers' torchvision processors.

    Pillow is used if torch lacks the filter or the crop is larger than the image. Raises the errors of
    `Processor.array`.
    """
    options: FileOptions = {"limits": limits, "allow_truncated": allow_truncated, "data_range": processor.data_range}
    if processor.channels != 3:
        return processor.array(image, **options)
    if is_in_memory(image):
        pixels = np.array(processor.full(image))
    else:
        pixels = open_rgb_pixels(image, background=processor.background, profile=processor.profile, **options)
    rows, columns = processor.resized_size((pixels.shape[0], pixels.shape[1]))
    crops = processor.center_crop != "none"
    size = processor.size if crops else (rows, columns)
    supported = processor.interpolation in ("bilinear", "bicubic")
    if not supported or rows < size[0] or columns < size[1] or rows * columns > MAX_RESIZED:
        return processor.array(Image.fromarray(pixels))
    pixels = _resize(pixels, (rows, columns), processor.interpolation)
    if crops:
        top, left = (crop_start(n, m, processor.center_crop) for n, m in zip((rows, columns), size, strict=True))
        pixels = pixels[top : top + size[0], left : left + size[1]]
    return normalize_fused(pixels, processor.rescale, processor.mean, processor.std)


def _resize(pixels: np.ndarray, to: tuple[int, int], filter_name: str) -> np.ndarray:
    if pixels.shape[:2] == to:
        return pixels
    # The kernel for channels-last memory is fast; a single image runs in one thread.
    planes = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    resized = torch.nn.functional.interpolate(planes, to, mode=filter_name, antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


def to_device(pixels: UInt8[Tensor, "b h w c"], device: torch.device) -> UInt8[Tensor, "b h w c"]:
    """Copies pixels to a device. Copies to a GPU are asynchronous and use pinned memory."""
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


def normalize_on_device(processor: Processor, pixels: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """Normalizes a batch on its device. Results are bit for bit equal to `Processor.normalize`."""
    values = _values(processor, pixels.device)
    planes = [values[channel][pixels[..., channel].long()] for channel in range(processor.channels)]
    return torch.stack(planes, dim=1)


@lru_cache(maxsize=16)
def _values(processor: Processor, device: torch.device) -> Float[Tensor, "c 256"]:
    return torch.from_numpy(table(processor.rescale, tuple(processor.mean), tuple(processor.std))).to(device)
