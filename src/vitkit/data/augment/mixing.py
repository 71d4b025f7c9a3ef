"""Mixup and CutMix: every picture of a batch with another one of it, and the targets in the same shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

Images = Float32[np.ndarray, "b c h w"]
Targets = Float32[np.ndarray, "b classes"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixup with a share from Beta(mixup, mixup), CutMix with one from Beta(cutmix, cutmix); 0 is without.

    `mode` says for what a share is drawn (timm's words): for the whole `batch` of a step, as in big_vision and DeiT,
    for each `pair` of pictures that are mixed with each other, or for each `elem`ent. It mixes with `probability`;
    where both are on, `switch` is CutMix's part. `share` is mixup's: `larger` takes the larger of a and 1 - a for the
    picture itself (big_vision), `drawn` takes a (timm; Zhang et al. 2017). Partners (see `partner`) are found in the
    batch of all processes, so nothing depends on how many there are.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5
    share: Literal["larger", "drawn"] = "larger"
    mode: Literal["batch", "pair", "elem"] = "batch"

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


def partner(number: int, size: int, repeats: int, mode: str) -> int:
    """Which picture of a batch of `size` is mixed into that number, where each comes in `repeats` copies in a row.

    The one before, so many copies back that it is another picture. In `pair` mode the batch is cut into groups of two
    pictures with their copies, and first and last of a group, second and last but one, ... go together; what is left
    over in the middle of the last group is its own partner.
    """
    if mode != "pair":
        return (number - repeats) % size
    start = number - number % (2 * repeats)
    return start + min(2 * repeats, size - start) - 1 - (number - start)


def draw_of(number: int, size: int, repeats: int, mode: str) -> int:
    """The number of the draw that picture is mixed by, of its step's: 0 for the batch, from 1 on for parts of it."""
    if mode == "batch":
        return 0
    return 1 + (min(number, partner(number, size, repeats, mode)) if mode == "pair" else number)


def draws(numbers: Sequence[int], size: int, repeats: int, mode: str) -> dict[int, list[int]]:
    """The places of `numbers` by the draw that each is mixed by."""
    found: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        found.setdefault(draw_of(number, size, repeats, mode), []).append(place)
    return found


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
