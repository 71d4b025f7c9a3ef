"""Untrusted bytes to the levels of an RGB picture, without a PIL picture between where none is needed."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from vitkit.images import turbo
from vitkit.images.color import Color, Profile, check_background
from vitkit.images.decode import Source, open_image, read_source
from vitkit.images.limits import DEFAULT_LIMITS, Limits
from vitkit.images.probe import probe


def open_pixels(
    source: Source,
    *,
    limits: Limits = DEFAULT_LIMITS,
    background: Color = (255, 255, 255),
    allow_truncated: bool = False,
    profile: Profile = "convert",
    needed: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The array of what `open_image` gives, with its arguments and errors; it is the caller's to write to.

    `needed` is told the size (rows, columns) of an upright JPEG file and says how large it has to be at least; the
    array may then be a half, a quarter or an eighth as large.
    """
    check_background(background)
    data = read_source(source, limits)
    header = probe(data, limits, allow_truncated=allow_truncated)
    if header.orientation == 1 and (profile == "ignore" or header.profile is None):
        pixels = turbo.decode(header, None if needed is None else needed((header.height, header.width)))
        if pixels is not None and pixels.ndim == 3:
            return pixels
    return np.array(
        open_image(data, limits=limits, background=background, allow_truncated=allow_truncated, profile=profile)
    )
