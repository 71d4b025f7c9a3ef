"""Mixup and CutMix: every picture of a batch with another one of it, and the targets in the same shares."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

Images = Float32[np.ndarray, "b c h w"]
Targets = Float32[np.ndarray, "b classes"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixup with a share from Beta(mixup, mixup), CutMix with one from Beta(cutmix, cutmix); 0 is without.

    One share is drawn a step for the whole batch, as big_vision does and timm and DeiT in their batch mode. A step
    mixes with `probability`; where both are on, `switch` is CutMix's part. `share` is mixup's: `larger` takes the
    larger of a and 1 - a for the picture itself (big_vision), `drawn` takes a (timm; Zhang et al. 2017). A picture's
    partner is the one before it in the batch of all processes, so nothing depends on how many there are.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5
    share: Literal["larger", "drawn"] = "larger"

    def __post_init__(self) -> None:
        """Refuses what is no strength and no probability."""
        if self.mixup < 0.0 or self.cutmix < 0.0:
            raise ValueError(f"mixing.mixup is {self.mixup} and mixing.cutmix {self.cutmix}; neither is below 0")
        if not 0.0 <= self.probability <= 1.0 or not 0.0 <= self.switch <= 1.0:
            raise ValueError(f"mixing: probability {self.probability} and switch {self.switch} lie between 0 and 1")

    @property
    def active(self) -> bool:
        """Whether any step is mixed."""
        return self.probability > 0.0 and max(self.mixup, self.cutmix) > 0.0


@dataclass(frozen=True)
class Mix:
    """What one step does: the picture's own `share`, and for CutMix the `box` (top, bottom, left, right) of the
    other.
    """

    share: float = 1.0
    box: tuple[int, int, int, int] | None = None

    def __call__(self, images: Images, targets: Targets, partners: tuple[Images, Targets]) -> tuple[Images, Targets]:
        """x = a x + (1 - a) x', or x outside and x' inside the box; the targets a t + (1 - a) t'."""
        share, other = np.float32(self.share), np.float32(1.0 - self.share)
        if self.box is None:
            mixed = images * share + partners[0] * other
        else:
            top, bottom, left, right = self.box
            mixed = images.copy()
            mixed[:, :, top:bottom, left:right] = partners[0][:, :, top:bottom, left:right]
        return mixed, targets * share + partners[1] * other


def draw(mixing: Mixing, size: tuple[int, int], random: np.random.Generator) -> Mix:
    """What is done to one batch of pictures of `size` (rows, columns)."""
    if not mixing.active or random.random() >= mixing.probability:
        return Mix()
    cut = mixing.cutmix > 0.0 and (mixing.mixup == 0.0 or random.random() < mixing.switch)
    strength = mixing.cutmix if cut else mixing.mixup
    share = float(random.beta(strength, strength))
    if not cut:
        return Mix(max(share, 1.0 - share) if mixing.share == "larger" else share)
    box = _box(share, size, random)
    # What the border cuts off the box changes the shares.
    return Mix(1.0 - (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1]), box)


def _box(share: float, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of the picture's shape and 1 - share of its area around any pixel, cut off at the border (Yun et al.
    2019).
    """
    edges: list[int] = []
    for side in size:
        length, middle = int(side * math.sqrt(1.0 - share)), int(random.integers(side))
        edges += [max(0, middle - length // 2), min(side, middle + (length + 1) // 2)]
    return edges[0], edges[1], edges[2], edges[3]
