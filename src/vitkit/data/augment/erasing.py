"""Random erasing (Zhong et al. 2017) of normalized images, sampled as in timm and DeiT."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """Settings of random erasing.

    probability  probability for an image
    area         minimum and maximum fraction of the image area, divided between the boxes
    aspect       height over width is between this and its inverse, uniform in the logarithm
    fill         standard normal noise per "pixel" or per "channel", or "zero"
    count        maximum number of boxes; the number is uniform from 1
    """

    probability: float = 0.0
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: float = 0.3
    fill: Literal["pixel", "channel", "zero"] = "pixel"
    count: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        if not 0.0 <= self.probability <= 1.0 or not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise ValueError(
                f"erasing: probability is {self.probability} and area is {self.area}; they must be between 0 and 1"
            )
        if not 0.0 < self.aspect <= 1.0 or self.count < 1:
            raise ValueError(
                f"erasing: aspect is {self.aspect} and count is {self.count}; "
                "aspect must be above 0 and at most 1, and count must be at least 1"
            )


def erase(
    image: Float32[np.ndarray, "c h w"], erasing: Erasing, random: np.random.Generator
) -> Float32[np.ndarray, "c h w"]:
    """Erases random boxes of an image in place. A box that does not fit in ten attempts is skipped."""
    if random.random() >= erasing.probability:
        return image
    channels, rows, columns = image.shape
    count = int(random.integers(1, erasing.count + 1))
    limit = -math.log(erasing.aspect)
    for _ in range(count):
        for _ in range(10):
            pixels = random.uniform(*erasing.area) * rows * columns / count
            aspect = math.exp(random.uniform(-limit, limit))
            height, width = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if height < rows and width < columns:
                top, left = int(random.integers(rows - height + 1)), int(random.integers(columns - width + 1))
                shape = {"pixel": (channels, height, width), "channel": (channels, 1, 1)}.get(erasing.fill)
                fill = random.standard_normal(shape, dtype=np.float32) if shape else np.float32(0)
                image[:, top : top + height, left : left + width] = fill
                break
    return image
