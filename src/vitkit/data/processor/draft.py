"""Preprocessing with reduced-size JPEG decoding, which is faster but changes pixel values slightly.

A decoder can skip the high frequencies of every 8 x 8 block and return the image at a half, a quarter or an eighth of
its size. This is done if the decoded image is still at least twice as large as the resized one.
"""

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitkit.data.processor import fast
from vitkit.data.processor.geometry import Size
from vitkit.data.processor.processor import FileOptions, ImageInput, Processor, is_in_memory
from vitkit.images import DEFAULT_LIMITS, Limits, open_rgb_pixels

# Minimum ratio of decoded to resized pixels along each axis, as Pillow's `reducing_gap`.
GAP = 2


def array(
    processor: Processor,
    image: ImageInput,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_truncated: bool = False,
) -> Float32[np.ndarray, "c h w"]:
    """Preprocesses one image with reduced-size JPEG decoding where possible, otherwise with `Processor.array`.

    Reduced decoding needs simplejpeg (the extra `fast`), vitkit's kernels, and an RGB processor with a bilinear or
    bicubic filter. Raises the errors of `Processor.array`.
    """
    options: FileOptions = {"limits": limits, "allow_truncated": allow_truncated, "data_range": processor.data_range}
    if is_in_memory(image) or processor.resize == "none" or processor.channels != 3:
        return processor.array(image, **options)
    target: list[Size] = []

    def min_size(size: Size) -> Size:
        to = processor.resized_size(size)
        target.append(to)
        supported = fast.resizes(to, processor.interpolation, processor.center_crop, processor.size)
        return (GAP * to[0], GAP * to[1]) if supported else size

    pixels = open_rgb_pixels(
        image, background=processor.background, profile=processor.profile, min_size=min_size, **options
    )
    # Wrapped as a PIL image, because an array of three rows could be mistaken for three channels.
    if not target:
        return processor.array(Image.fromarray(pixels))
    found = fast.resize_and_crop(pixels, target[0], processor.interpolation, processor.center_crop, processor.size)
    return processor.array(Image.fromarray(pixels)) if found is None else processor.normalize(found)
