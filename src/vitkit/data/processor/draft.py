"""The same processing of JPEG files that are decoded small: other pixels, at a fraction of the time for large photos.

A decoder can leave out the high frequencies of every block of 8 x 8 pixels, and gives a picture of a half, a quarter or
an eighth of the size. That is done where it stays at least twice as large as it is resized to; the rest is as ever.
"""

import numpy as np
from jaxtyping import Float32
from PIL import Image

from vitkit.data.processor import fast
from vitkit.data.processor.geometry import Size
from vitkit.data.processor.processor import Picture, Processor
from vitkit.images import DEFAULT_LIMITS, Limits, is_tensor, open_pixels

# How many pixels are decoded along an axis for one of the resized picture, at least: Pillow's `reducing_gap`.
GAP = 2


def array(
    processor: Processor,
    image: Picture,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_truncated: bool = False,
) -> Float32[np.ndarray, "c h w"]:
    """One picture as numbers, from a small decoding where there is one; `Processor.array` elsewhere, and its errors.

    It takes simplejpeg (the extra `fast`) and our kernels, and a processor of RGB with a bilinear or bicubic filter.
    """
    reading = {"limits": limits, "allow_truncated": allow_truncated}
    if isinstance(image, Image.Image | np.ndarray) or is_tensor(image) or processor.resize == "none":
        return processor.array(image, **reading)
    whole: list[Size] = []

    def needed(size: Size) -> Size:
        to = processor.resized(size)
        whole.append(to)
        able = processor.channels == 3 and fast.resizes(
            to, processor.interpolation, processor.center_crop, processor.size
        )
        return (GAP * to[0], GAP * to[1]) if able else size

    pixels = open_pixels(image, background=processor.background, profile=processor.profile, needed=needed, **reading)
    # A picture of PIL's, for an array of three rows might be taken for three channels.
    if not whole:
        return processor.array(Image.fromarray(pixels))
    found = fast.resize_and_crop(pixels, whole[0], processor.interpolation, processor.center_crop, processor.size)
    return processor.array(Image.fromarray(pixels)) if found is None else processor.numbers(found)
