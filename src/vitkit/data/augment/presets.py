"""Augmentation settings of published recipes, such as AugReg, DeiT and DeiT III."""

from vitkit.config import nearest
from vitkit.data.augment import Augment
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.mixing import Mixing
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.randaugment import RandAugment

#: "How to train your ViT?" (AugReg), table 1: RandAugment layers and magnitude, Mixup alpha. The names are those of the
#: paper and of big_vision. Checkpoint files use other names: their light0 is light1, their light1 is light2.
AUGREG: dict[str, tuple[int, float, float]] = {
    "none": (0, 0.0, 0.0),
    "light1": (2, 0.0, 0.0),
    "light2": (2, 10.0, 0.2),
    "medium1": (2, 15.0, 0.2),
    "medium2": (2, 15.0, 0.5),
    "strong1": (2, 20.0, 0.5),
    "strong2": (2, 20.0, 0.8),
}


def augreg(name: str) -> Augment:
    """Returns AugReg's augmentation (Inception crop, flip, RandAugment, Mixup) at one of seven strengths.

    light1 is not the identity: RandAugment at magnitude 0 still reduces color, contrast and brightness. Raises
    ValueError for an unknown name.
    """
    if name not in AUGREG:
        raise ValueError(f"unknown augmentation '{name}'{nearest(name, AUGREG)}")
    layers, magnitude, alpha = AUGREG[name]
    return Augment(
        crop=inception("tensorflow"),
        flip=True,
        randaugment=RandAugment(layers=layers, magnitude=magnitude),
        mixing=Mixing(mixup=alpha),
    )


def inception(kind: str) -> Crop:
    """Returns the Inception crop with the sampling of `tensorflow` (Google's recipes) or `torchvision` (DeiT, timm)."""
    if kind == "tensorflow":
        return Crop(kind="tensorflow", resampling="bilinear_aliased")
    if kind == "torchvision":
        return Crop(kind="torchvision", resampling="bicubic")
    raise ValueError(f"unknown Inception crop '{kind}'{nearest(kind, ('tensorflow', 'torchvision'))}")


#: timm's "rand-m9-mstd0.5-inc1": RandAugment of DeiT, and of fine-tuning in MAE and BEiT.
RAND_M9 = RandAugment(layers=2, magnitude=9.0, noise=0.5, operations="increasing")


def deit(repeats: int = 3) -> Augment:
    """Returns DeiT's augmentation (Touvron et al. 2021, table 9): crop, flip, RandAugment, erasing, Mixup or CutMix.

    The color jitter of 0.3 in the published command has no effect there, because RandAugment replaces it. Use
    `repeats=1` for fine-tuning.
    """
    return Augment(
        crop=inception("torchvision"),
        flip=True,
        randaugment=RAND_M9,
        erasing=Erasing(probability=0.25),
        mixing=Mixing(mixup=0.8, cutmix=1.0, ratio="sampled"),
        repeats=repeats,
    )


def deit3() -> Augment:
    """Returns DeiT III's augmentation on ImageNet-1k: crop, flip, 3-Augment, jitter, mixing, 3 copies per image."""
    return Augment(
        crop=inception("torchvision"),
        flip=True,
        three_augment=True,
        jitter=Jitter(brightness=0.3, contrast=0.3, saturation=0.3),
        mixing=Mixing(mixup=0.8, cutmix=1.0, ratio="sampled"),
        repeats=3,
    )
