"""The same processing with torch's resampling of whole levels: the pixels of transformers' torchvision backend.

Pillow's and torch's resampling are the same filters rounded in other places: on photos they differ by one or two levels
at one pixel in fifty, and by more where Pillow (13) takes the rows before the columns. torch's is what transformers 5
does by default. `Processor` itself stays with Pillow's pixels.
"""

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vitkit.data.processor.geometry import MAX_RESIZED, crop_start
from vitkit.data.processor.processor import Picture, Processor
from vitkit.images import DEFAULT_LIMITS, Limits, is_tensor, open_pixels


def array(
    processor: Processor,
    image: Picture,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_truncated: bool = False,
) -> Float32[np.ndarray, "c h w"]:
    """One picture as numbers, resized by torch; by Pillow where torch has no such filter or a crop reaches outside.

    Errors as `Processor.array`.
    """
    reading = {"limits": limits, "allow_truncated": allow_truncated}
    if isinstance(image, Image.Image | np.ndarray) or is_tensor(image):
        pixels = np.array(processor.rgb(image))
    else:
        pixels = open_pixels(image, background=processor.background, profile=processor.profile, **reading)
    rows, columns = processor.resized((pixels.shape[0], pixels.shape[1]))
    crops = processor.center_crop != "none"
    size = processor.size if crops else (rows, columns)
    known = processor.interpolation in ("bilinear", "bicubic") and processor.channels == 3
    if not known or rows < size[0] or columns < size[1] or rows * columns > MAX_RESIZED:
        return processor.array(Image.fromarray(pixels))
    pixels = _resized(pixels, (rows, columns), processor.interpolation)
    if crops:
        top, left = (crop_start(n, m, processor.center_crop) for n, m in zip((rows, columns), size, strict=True))
        pixels = pixels[top : top + size[0], left : left + size[1]]
    return _numbers(pixels, processor)


def _numbers(pixels: UInt8[np.ndarray, "h w c"], processor: Processor) -> Float32[np.ndarray, "c h w"]:
    """Rescaled and normalised in one multiplication and one subtraction: `Processor.numbers` but for float rounding."""
    std = np.array(processor.std, np.float64)
    factor, shift = processor.rescale / std, np.array(processor.mean, np.float64) / std
    numbers = np.empty((processor.channels, *pixels.shape[:2]), np.float32)
    np.multiply(np.moveaxis(pixels, -1, 0), factor.astype(np.float32)[:, None, None], out=numbers)
    numbers -= shift.astype(np.float32)[:, None, None]
    return numbers


def _resized(pixels: np.ndarray, to: tuple[int, int], filter_name: str) -> np.ndarray:
    import torch

    if pixels.shape[:2] == to:
        return pixels
    # Channels stay last in memory, which is the layout that the fast kernel takes; one picture runs in one thread.
    planes = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    small = torch.nn.functional.interpolate(planes, to, mode=filter_name, antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0).numpy()
