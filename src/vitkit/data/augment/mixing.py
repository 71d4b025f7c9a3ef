"""Mixup and CutMix of the images and targets in a batch."""

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
    """Settings of Mixup and CutMix. Images are mixed with images of the global batch, also across processes.

    mixup        alpha of Beta(alpha, alpha) for Mixup; 0 disables it
    cutmix       alpha of Beta(alpha, alpha) for CutMix; 0 disables it
    probability  probability of mixing
    switch       probability of CutMix if both are enabled
    ratio        lambda of Mixup: "larger" is the larger of lambda and 1 - lambda, so that the image itself dominates
                 (big_vision); "sampled" is lambda as sampled (timm; Zhang et al. 2017)
    mode         sample lambda per "batch", as in big_vision and DeiT, per "pair" of images that are mixed with each
                 other, or per "elem" (element); timm's names
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5
    ratio: Literal["larger", "sampled"] = "larger"
    mode: Literal["batch", "pair", "elem"] = "batch"

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        if self.mixup < 0.0 or self.cutmix < 0.0:
            raise ValueError(
                f"mixing.mixup is {self.mixup} and mixing.cutmix is {self.cutmix}; both must be at least 0"
            )
        if not 0.0 <= self.probability <= 1.0 or not 0.0 <= self.switch <= 1.0:
            raise ValueError(f"mixing: probability {self.probability} and switch {self.switch} must be between 0 and 1")

    @property
    def active(self) -> bool:
        """Whether Mixup or CutMix is enabled."""
        return self.probability > 0.0 and max(self.mixup, self.cutmix) > 0.0


@dataclass(frozen=True)
class Mix:
    """Sampled mixing parameters: the mixing weight `lam`, and the CutMix `box` (top, bottom, left, right)."""

    lam: float = 1.0
    box: tuple[int, int, int, int] | None = None

    def __call__(self, images: Images, targets: Targets, partners: tuple[Images, Targets]) -> tuple[Images, Targets]:
        """Mixes images x and targets with their partners x': lam * x + (1 - lam) * x', or x' inside the CutMix box."""
        lam, other = np.float32(self.lam), np.float32(1.0 - self.lam)
        if self.box is None:
            mixed = images * lam + partners[0] * other
        else:
            top, bottom, left, right = self.box
            mixed = images.copy()
            mixed[:, :, top:bottom, left:right] = partners[0][:, :, top:bottom, left:right]
        return mixed, targets * lam + partners[1] * other


def partner(position: int, size: int, repeats: int, mode: str) -> int:
    """Returns the batch position of the image that is mixed with the image at `position`.

    This is `repeats` positions earlier, so that it is another image. In `pair` mode the batch is divided into groups of
    two images with their copies, and the first element of a group is paired with the last, the second with the last but
    one, and so on; an element in the middle of an incomplete last group is its own partner.
    """
    if mode != "pair":
        return (position - repeats) % size
    start = position - position % (2 * repeats)
    return start + min(2 * repeats, size - start) - 1 - (position - start)


def mix_group(position: int, size: int, repeats: int, mode: str) -> int:
    """Returns the index of the group of an image. All images of a group share one sampled mixing weight."""
    if mode == "batch":
        return 0
    return 1 + (min(position, partner(position, size, repeats, mode)) if mode == "pair" else position)


def mix_groups(positions: Sequence[int], size: int, repeats: int, mode: str) -> dict[int, list[int]]:
    """Returns the images of each group as indices into `positions` (see `mix_group`)."""
    found: dict[int, list[int]] = {}
    for index, position in enumerate(positions):
        found.setdefault(mix_group(position, size, repeats, mode), []).append(index)
    return found


def sample_mix(mixing: Mixing, size: tuple[int, int], random: np.random.Generator) -> Mix:
    """Samples the mixing parameters for images of `size` (height, width)."""
    if not mixing.active or random.random() >= mixing.probability:
        return Mix()
    cut = mixing.cutmix > 0.0 and (mixing.mixup == 0.0 or random.random() < mixing.switch)
    strength = mixing.cutmix if cut else mixing.mixup
    lam = float(random.beta(strength, strength))
    if not cut:
        return Mix(max(lam, 1.0 - lam) if mixing.ratio == "larger" else lam)
    box = _box(lam, size, random)
    # The border may clip the box, so the weights follow from its area.
    return Mix(1.0 - (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1]), box)


def _box(lam: float, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """Samples a box with the fraction 1 - lam of the image area, clipped at the border (Yun et al. 2019)."""
    edges: list[int] = []
    for side in size:
        length, middle = int(side * math.sqrt(1.0 - lam)), int(random.integers(side))
        edges += [max(0, middle - length // 2), min(side, middle + (length + 1) // 2)]
    return edges[0], edges[1], edges[2], edges[3]
