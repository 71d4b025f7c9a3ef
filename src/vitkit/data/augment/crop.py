"""Random crops, sampled as in TensorFlow, torchvision or DeiT III."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vitkit.data.processor import Processor
from vitkit.data.processor.geometry import Interpolation, resize_image, resized_size
from vitkit.images import AnyImage, from_pixels

Box = tuple[int, int, int, int]  # top, left, height, width
Kind = Literal["none", "tensorflow", "torchvision", "simple"]
Resampling = Literal[
    "processor", "bilinear_aliased", "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"
]  # fmt: skip

# Pixels of a box that is cut out without `Image.crop`, whose limit is 89 million.
LARGE = 64_000_000
# Defaults of the libraries: fraction of the image area, and width over height.
DEFAULT_AREA = {"tensorflow": (0.05, 1.0), "torchvision": (0.08, 1.0)}
DEFAULT_ASPECT = {"tensorflow": (0.75, 1.33), "torchvision": (3 / 4, 4 / 3)}


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Settings of the random crop of training images, which replaces the resizing of the processor.

    kind         "tensorflow" and "torchvision" are the Inception crops of the two libraries; "simple" resizes the image
                 to `short_side` (None: the input size), pads it by `padding` reflected pixels and takes a random window
                 of the input size, as in DeiT III and big_vision's transfers; "none" uses the processor
    area         minimum and maximum fraction of the area; None for the default of the library
    aspect       minimum and maximum width over height; None for the default of the library
    short_side   short side in pixels for "simple"
    padding      padding in pixels for "simple"
    resampling   "processor": the filter of the processor; "bilinear_aliased": TensorFlow's bilinear resize, without
                 antialiasing and truncated to integers
    """

    kind: Kind = "none"
    area: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    short_side: int | None = None
    padding: int = 0
    resampling: Resampling = "processor"

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is invalid."""
        for name, options in (("kind", Kind), ("resampling", Resampling)):
            if getattr(self, name) not in get_args(options):
                raise ValueError(
                    f"crop.{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(options))}"
                )
        if self.area is not None and not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise ValueError(f"crop.area is {self.area}; expected 0 < minimum <= maximum <= 1")
        if self.aspect is not None and not 0.0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"crop.aspect is {self.aspect}; expected 0 < minimum <= maximum")
        if self.padding < 0 or (self.short_side is not None and self.short_side < 1):
            raise ValueError(
                f"crop.padding is {self.padding} and crop.short_side is {self.short_side}; both must be at least 0"
            )

    def check(self, size: tuple[int, int]) -> None:
        """Raises ValueError if a "simple" crop of this size is larger than the padded image."""
        if self.kind == "simple" and self.short_side and self.short_side + 2 * self.padding < max(size):
            raise ValueError(
                f"crop.short_side {self.short_side} with padding {self.padding} is too small for the input size {size}"
            )


def crop_and_resize(image: AnyImage, crop: Crop, processor: Processor, random: np.random.Generator) -> AnyImage:
    """Crops an image at random and resizes it to the input size of the processor."""
    if crop.kind == "simple":
        return _simple(image, crop, processor, random)
    area, aspect = crop.area or DEFAULT_AREA[crop.kind], crop.aspect or DEFAULT_ASPECT[crop.kind]
    sample = tensorflow_box if crop.kind == "tensorflow" else torchvision_box
    top, left, height, width = sample((image.height, image.width), area, aspect, random)
    return _resize(_cut(image, (top, left, height, width)), processor.size, crop, processor)


def _cut(image: AnyImage, box: Box) -> AnyImage:
    """Returns a box of an image, cut with Pillow's `transform`, because `crop` warns about large boxes."""
    top, left, height, width = box
    edges = (left, top, left + width, top + height)
    if height * width <= LARGE:
        return image.crop(edges)
    return image.transform((width, height), Image.Transform.EXTENT, edges, Image.Resampling.NEAREST)


def tensorflow_box(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], random: np.random.Generator
) -> Box:
    """Samples a box like TensorFlow's sample_distorted_bounding_box. Returns the full image if no box fits.

    The aspect ratio is uniform (not its logarithm), and the height is a uniform integer (not the area). A crop reaches
    the last row or column only if it has all of them, because the original samples offsets below the free space.
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
    """Samples one box in float32 with the rounding of TensorFlow. Returns None if the box does not fit."""
    rows, columns = size
    least, most = (np.float32(fraction) * np.float32(rows * columns) for fraction in area)

    def width_of(height: int) -> int:
        return round(float(np.float32(height) * ratio))

    lowest, highest = (round(float(np.sqrt(pixels / ratio))) for pixels in (least, most))
    if width_of(highest) > columns:
        highest = int((columns + 0.5 - 1e-7) / float(ratio))
        highest -= width_of(highest) > columns
    highest = min(highest, rows)
    height = highest if lowest >= highest else int(random.integers(lowest, highest + 1))
    # After rounding, the area may be slightly outside the limits: add or remove one row.
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
    """Samples a box with uniform area and log-uniform aspect ratio, like RandomResizedCrop in torchvision and timm.

    After ten failed attempts, the largest center crop within the aspect limits.
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


def _simple(image: AnyImage, crop: Crop, processor: Processor, random: np.random.Generator) -> AnyImage:
    rows, columns = processor.size
    to = crop.short_side or (rows if rows == columns else processor.size)
    image = _resize(image, resized_size((image.height, image.width), "shortest", to), crop, processor)
    if crop.padding:
        pixels = np.asarray(image)
        edges = [(crop.padding, crop.padding)] * 2 + [(0, 0)] * (pixels.ndim - 2)
        image = from_pixels(np.pad(pixels, edges, mode="reflect"))
    top, left = (int(random.integers(room + 1)) for room in (image.height - rows, image.width - columns))
    return image.crop((left, top, left + columns, top + rows))


def _resize(image: AnyImage, to: tuple[int, int], crop: Crop, processor: Processor) -> AnyImage:
    if crop.resampling == "bilinear_aliased":
        extent = (0, 0, image.width, image.height)
        return image.transform((to[1], to[0]), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
    name: Interpolation = processor.interpolation if crop.resampling == "processor" else crop.resampling
    return resize_image(image, to, name)
