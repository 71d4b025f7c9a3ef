"""Random crops: the part of a picture that is shown, sampled as TensorFlow, torchvision or DeiT III do."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vitkit.data.processor import Processor
from vitkit.data.processor.geometry import Interpolation, resize_whole, resized

Box = tuple[int, int, int, int]  # top, left, height, width
Kind = Literal["none", "tensorflow", "torchvision", "simple"]
Resampling = Literal[
    "processor", "bilinear_aliased", "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"
]  # fmt: skip

# What the original libraries take where nothing is said: shares of the picture's area, and width over height.
DEFAULT_AREA = {"tensorflow": (0.05, 1.0), "torchvision": (0.08, 1.0)}
DEFAULT_ASPECT = {"tensorflow": (0.75, 1.33), "torchvision": (3 / 4, 4 / 3)}


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Which part of a training picture is shown, in place of the processor's resizing.

    kind         "tensorflow" and "torchvision" are the two Inception crops, each with its own sampling; "simple" is a
                 window of the input size out of the picture resized to `short_side` (None: to fit exactly) and padded
                 by `padding` mirrored pixels, as DeiT III and big_vision's transfers have it; "none" leaves the
                 processor's way
    area         the crop's share of the area, from and to; None for the library's own numbers
    aspect       width over height, from and to; None for the library's own
    resampling   "processor": its filter; "bilinear_aliased": TensorFlow's, which looks at four pixels however far it
                 shrinks, and drops fractions
    """

    kind: Kind = "none"
    area: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    short_side: int | None = None
    padding: int = 0
    resampling: Resampling = "processor"

    def __post_init__(self) -> None:
        """Refuses ranges that are none."""
        for name, options in (("kind", Kind), ("resampling", Resampling)):
            if getattr(self, name) not in get_args(options):
                raise ValueError(f"crop.{name} is {getattr(self, name)!r}; there is {', '.join(get_args(options))}")
        if self.area is not None and not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise ValueError(f"crop.area is {self.area}; it goes from above 0 up to at most 1")
        if self.aspect is not None and not 0.0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"crop.aspect is {self.aspect}; it goes up from above 0")
        if self.padding < 0 or (self.short_side is not None and self.short_side < 1):
            raise ValueError(
                f"crop.padding is {self.padding} and crop.short_side {self.short_side}; neither is below 0"
            )

    def check(self, size: tuple[int, int]) -> None:
        """Raises ValueError where a simple crop of that size finds no room."""
        if self.kind == "simple" and self.short_side and self.short_side + 2 * self.padding < max(size):
            raise ValueError(
                f"crop.short_side is {self.short_side} with a padding of {self.padding}: no room for {size}"
            )


def crop_and_resize(picture: Image.Image, crop: Crop, processor: Processor, random: np.random.Generator) -> Image.Image:
    """A random part of the whole picture at the processor's size."""
    if crop.kind == "simple":
        return _simple(picture, crop, processor, random)
    area, aspect = crop.area or DEFAULT_AREA[crop.kind], crop.aspect or DEFAULT_ASPECT[crop.kind]
    sample = tensorflow_box if crop.kind == "tensorflow" else torchvision_box
    top, left, height, width = sample((picture.height, picture.width), area, aspect, random)
    return _resize(picture.crop((left, top, left + width, top + height)), processor.size, crop, processor)


def tensorflow_box(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], random: np.random.Generator
) -> Box:
    """TensorFlow's sample_distorted_bounding_box around the whole picture; after 100 tries in vain, the whole picture.

    The aspect is uniform (not its logarithm), and the height is a uniform whole number (not the area). A crop never
    reaches the last row or column unless it has all of them: the original draws offsets below, not up to, the room.
    """
    for _ in range(100):
        ratio = np.float32(random.uniform(*aspect))
        box = _tensorflow_try(size, area, ratio, random)
        if box is not None:
            return box
    return 0, 0, *size


def _tensorflow_try(
    size: tuple[int, int], area: tuple[float, float], ratio: np.float32, random: np.random.Generator
) -> Box | None:
    """One try, in float32 and with halves rounded to even as the original computes."""
    rows, columns = size
    least, most = (np.float32(share) * np.float32(rows * columns) for share in area)

    def width_of(height: int) -> int:
        return round(float(np.float32(height) * ratio))

    lowest, highest = (round(float(np.sqrt(pixels / ratio))) for pixels in (least, most))
    if width_of(highest) > columns:
        highest = int((columns + 0.5 - 1e-7) / float(ratio))
        highest -= width_of(highest) > columns
    highest = min(highest, rows)
    height = highest if lowest >= highest else int(random.integers(lowest, highest + 1))
    # Rounding may have left the limits by a little: one row more, or one less.
    if height * width_of(height) < least:
        height += 1
    if height * width_of(height) > most:
        height -= 1
    width = width_of(height)
    if not least <= height * width <= most or not 0 < height <= rows or not 0 < width <= columns:
        return None
    top = int(random.integers(rows - height)) if height < rows else 0
    left = int(random.integers(columns - width)) if width < columns else 0
    return top, left, height, width


def torchvision_box(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], random: np.random.Generator
) -> Box:
    """torchvision's RandomResizedCrop, which timm has too: area and the logarithm of the aspect are uniform.

    After ten tries in vain it is the middle, cut only where the picture is longer than any aspect allows.
    """
    rows, columns = size
    for _ in range(10):
        pixels = rows * columns * random.uniform(*area)
        ratio = math.exp(random.uniform(math.log(aspect[0]), math.log(aspect[1])))
        height, width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < height <= rows and 0 < width <= columns:
            top = int(random.integers(rows - height + 1))
            return top, int(random.integers(columns - width + 1)), height, width
    height, width = rows, columns
    if columns / rows < aspect[0]:
        height = round(columns / aspect[0])
    elif columns / rows > aspect[1]:
        width = round(rows * aspect[1])
    return (rows - height) // 2, (columns - width) // 2, height, width


def _simple(picture: Image.Image, crop: Crop, processor: Processor, random: np.random.Generator) -> Image.Image:
    rows, columns = processor.size
    to = crop.short_side or (rows if rows == columns else processor.size)
    picture = _resize(picture, resized((picture.height, picture.width), "shortest", to), crop, processor)
    if crop.padding:
        pixels = np.asarray(picture)
        edges = [(crop.padding, crop.padding)] * 2 + [(0, 0)] * (pixels.ndim - 2)
        picture = Image.fromarray(np.pad(pixels, edges, mode="reflect"))
    top, left = (int(random.integers(room + 1)) for room in (picture.height - rows, picture.width - columns))
    return picture.crop((left, top, left + columns, top + rows))


def _resize(picture: Image.Image, to: tuple[int, int], crop: Crop, processor: Processor) -> Image.Image:
    if crop.resampling == "bilinear_aliased":
        whole = (0, 0, picture.width, picture.height)
        return picture.transform((to[1], to[0]), Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR)
    name: Interpolation = processor.interpolation if crop.resampling == "processor" else crop.resampling
    return resize_whole(picture, to, name)
