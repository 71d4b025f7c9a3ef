"""Random erasing (Zhong et al. 2017): boxes of noise over prepared pictures, sampled as timm and DeiT do."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """With `probability`, 1 to `count` boxes are filled: with noise for each `pixel`, one `channel` colour, or `zero`.

    A box has the share `area` of the picture (split between several boxes); height over width lies between `aspect`
    and 1 / `aspect`, uniform in the logarithm. Noise is standard normal, in the numbers that the model reads.
    """

    probability: float = 0.0
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: float = 0.3
    fill: Literal["pixel", "channel", "zero"] = "pixel"
    count: int = 1

    def __post_init__(self) -> None:
        """Refuses what is no probability, no share and no count."""
        if not 0.0 <= self.probability <= 1.0 or not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise ValueError(f"erasing: probability {self.probability} and area {self.area} lie between 0 and 1")
        if not 0.0 < self.aspect <= 1.0 or self.count < 1:
            raise ValueError(f"erasing: aspect {self.aspect} is above 0 and at most 1, count {self.count} at least 1")


def erase(
    image: Float32[np.ndarray, "c h w"], erasing: Erasing, random: np.random.Generator
) -> Float32[np.ndarray, "c h w"]:
    """The image with its boxes filled, in place; a box that finds no room in ten tries is left out."""
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
