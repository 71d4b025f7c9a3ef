"""`create_transform`: timm's evaluation transform, pixel for pixel, and its training transforms."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.config import Json, nearest
from vitkit.data.augment import Augment, Transform, augmented
from vitkit.data.augment.crop import Crop, crop_and_resize
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.randaugment import RandAugment
from vitkit.data.processor import Processor
from vitkit.timm.data.constants import DEFAULT_CROP_PCT, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

ERASING = {"const": "zero", "": "zero", "rand": "channel", "pixel": "pixel"}
# timm's choice for interpolation="random".
RANDOM = ("bilinear", "bicubic")
RAND_AUGMENT = re.compile(r"(m|n|mstd|inc|p|mmax)(\d[\d.]*)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `create_transform`, with timm's defaults."""

    is_training: bool = False
    no_aug: bool = False
    train_crop_mode: str | None = None
    scale: Sequence[float] | None = None
    ratio: Sequence[float] | None = None
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | Sequence[float] | None = 0.4
    color_jitter_prob: float | None = None
    grayscale_prob: float = 0.0
    gaussian_blur_prob: float = 0.0
    auto_augment: str | None = None
    interpolation: str = "bilinear"
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
    std: Sequence[float] = IMAGENET_DEFAULT_STD
    re_prob: float = 0.0
    re_mode: str = "const"
    re_count: int = 1
    re_num_splits: int = 0
    crop_pct: float | None = None
    crop_mode: str | None = None
    crop_border_pixels: int | None = None
    tf_preprocessing: bool = False
    use_prefetcher: bool = False
    normalize: bool = True
    separate: bool = False
    naflex: bool = False
    patch_size: int | tuple[int, int] = 16
    max_seq_len: int = 576
    patchify: bool = False
    patchify_channels_last: bool = True
    patchify_flatten: bool = True


# Options that vitkit's transforms do not have.
UNSUPPORTED = ("crop_border_pixels", "tf_preprocessing", "separate", "naflex", "patchify")
UNSUPPORTED_IN_TRAINING = ("vflip", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob")


class ImageTransform:
    """Converts an image to a float32 tensor (channels, height, width), or to uint8 without normalization.

    In training the augmentation is sampled with torch's random generator, so that `torch.manual_seed` and the seeds of
    a DataLoader's workers determine it. Images are PIL images, paths, arrays or tensors.
    """

    def __init__(self, transforms: Sequence[Transform], *, training: bool, as_bytes: bool):
        self.transforms = tuple(transforms)
        self.training = training
        self.as_bytes = as_bytes

    @property
    def processor(self) -> Processor:
        """The preprocessing without augmentation."""
        return self.transforms[0].processor

    def __call__(self, image: Any) -> Tensor:
        """Returns the tensor of an image."""
        if not self.training:
            pixels = self.processor.pixels(image)
            return torch.from_numpy(_channels_first(pixels) if self.as_bytes else self.processor.normalize(pixels))
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        transform = self.transforms[int(random.integers(len(self.transforms)))]
        full = transform.processor.full(image)
        if not self.as_bytes:
            return torch.from_numpy(transform(full, random))
        if transform.augment.crop.kind == "none":
            cropped = transform.processor.image(full)
        else:
            cropped = crop_and_resize(full, transform.augment.crop, transform.processor, random)
        return torch.from_numpy(_channels_first(np.asarray(augmented(cropped, transform.augment, random))))

    def __repr__(self) -> str:
        what = f"augment={self.transforms[0].augment}, " if self.training else ""
        return f"{type(self).__name__}({what}processor={self.processor})"


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def create_transform(
    input_size: int | Sequence[int] = 224, is_training: bool = False, **options: Any
) -> Callable[[Any], Tensor]:
    """Returns timm's transform from an image to a tensor. Its arguments are the entries of `resolve_data_config`.

    The evaluation transform equals timm's pixel for pixel. In training it has the random resized crop, horizontal flip,
    color jitter, RandAugment (`rand-m9-mstd0.5-inc1` and its like), 3-Augment (`3a`) and random erasing. Raises
    ValueError for options that vitkit does not have, and TypeError for unknown ones.
    """
    known = [field.name for field in dataclasses.fields(Options)]
    for name in options:
        if name not in known:
            raise TypeError(
                f"create_transform() got an unexpected keyword argument '{name}'{nearest(name, [*known, 'input_size'])}"
            )
    given = Options(is_training=is_training, **options)
    names = UNSUPPORTED + (UNSUPPORTED_IN_TRAINING if is_training and not given.no_aug else ())
    for name in names:
        if getattr(given, name):
            raise ValueError(f"{name}={getattr(given, name)!r} is not supported by vitkit; leave it out, or use timm")
    as_bytes = given.use_prefetcher or not given.normalize
    size = input_size if isinstance(input_size, int) else tuple(input_size)
    if not is_training:
        processor = _processor(size, given, given.interpolation)
        return ImageTransform([Transform(processor)], training=False, as_bytes=as_bytes)
    if given.no_aug:
        # timm squashes to (height, width), and crops for one integer.
        mode = "center" if isinstance(size, int) else "squash"
        name = "bilinear" if given.interpolation == "random" else given.interpolation
        plain = dataclasses.replace(given, crop_pct=1.0, crop_mode=mode)
        return ImageTransform([Transform(_processor(size, plain, name))], training=False, as_bytes=as_bytes)
    filters = RANDOM if given.interpolation == "random" else (given.interpolation,)
    augment = _augment(given)
    transforms = [
        Transform(_processor(size, given, name), dataclasses.replace(augment, crop=_crop(given, name)))
        for name in filters
    ]
    return ImageTransform(transforms, training=True, as_bytes=as_bytes)


def _processor(size: int | tuple[int, ...], options: Options, interpolation: str) -> Processor:
    sides = (size, size) if isinstance(size, int) else size[-2:]
    channels = len(options.mean) if isinstance(size, int) or len(size) == 2 else size[0]
    cfg: Json = {
        "input_size": (channels, *sides),
        "crop_pct": options.crop_pct or DEFAULT_CROP_PCT,
        "crop_mode": options.crop_mode if options.crop_mode in ("squash", "border") else "center",
        "interpolation": interpolation,
        "mean": tuple(map(float, options.mean)),
        "std": tuple(map(float, options.std)),
    }
    return Processor.from_timm(cfg)


def _crop(options: Options, interpolation: str) -> Crop:
    if options.train_crop_mode not in (None, "rrc"):
        raise ValueError(
            f"train_crop_mode is {options.train_crop_mode!r}; vitkit supports only 'rrc' (random resized crop)"
        )
    resampling: Any = interpolation
    return Crop(
        kind="torchvision",
        area=_range(options.scale, (0.08, 1.0)),
        aspect=_range(options.ratio, (3 / 4, 4 / 3)),
        resampling=resampling,
    )


def _range(given: Sequence[float] | None, default: tuple[float, float]) -> tuple[float, float]:
    low, high = given or default
    return float(low), float(high)


def _augment(options: Options) -> Augment:
    if options.hflip not in (0, 0.5):
        raise ValueError(f"hflip is {options.hflip}; vitkit supports only 0 and 0.5")
    if options.re_mode.lower() not in ERASING:
        raise AssertionError(f"re_mode is {options.re_mode!r}; expected one of {', '.join(map(repr, ERASING))}")
    policy = options.auto_augment or ""
    fill: Any = ERASING[options.re_mode.lower()]
    return Augment(
        flip=options.hflip > 0,
        three_augment=policy == "3a",
        randaugment=_randaugment(policy) if policy and policy != "3a" else RandAugment(),
        jitter=_jitter(options.color_jitter) if not policy or policy == "3a" else Jitter(),
        erasing=Erasing(probability=options.re_prob, fill=fill, count=options.re_count),
    )


def _jitter(given: float | Sequence[float] | None) -> Jitter:
    if given is None:
        return Jitter()
    values = (given,) * 3 if isinstance(given, int | float) else tuple(given)
    if len(values) not in (3, 4):
        raise AssertionError(f"color_jitter has {len(values)} values; expected 1, 3 or 4")
    return Jitter(**dict(zip(("brightness", "contrast", "saturation", "hue"), map(float, values), strict=False)))


def _randaugment(policy: str) -> RandAugment:
    """Parses a RandAugment string such as "rand-m9-mstd0.5-inc1". Raises ValueError for other policies."""
    sections = policy.split("-")
    parsed = [RAND_AUGMENT.fullmatch(section) for section in sections[1:]]
    values = {match[1]: float(match[2]) for match in parsed if match}
    supported = (
        sections[0] == "rand"
        and None not in parsed
        and values.get("inc") == 1
        and values.get("p", 0.5) == 0.5
        and values.get("mmax", 10) == 10
        and values.get("mstd", 0) <= 100
    )
    if not supported:
        raise ValueError(
            f"auto_augment is {policy!r}; vitkit supports '3a', and RandAugment such as 'rand-m9-mstd0.5-inc1' (inc1 "
            "is required, p must be 0.5, and mmax must be 10)"
        )
    layers, magnitude = int(values.get("n", 2)), float(int(values.get("m", 10)))
    return RandAugment(layers=layers, magnitude=magnitude, noise=values.get("mstd", 0.0), operations="increasing")
