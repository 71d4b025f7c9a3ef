"""A data source: circles and squares of random sizes, drawn when they are read.

    vitkit check "./my_source.py?number=20"
    vitkit train digits.tiny --data "./my_source.py?number=500,size=24"

The data source is named after the file; the text after the question mark is its `location`.
"""

from typing import Unpack

import numpy as np
from PIL import Image, ImageDraw

from vitkit.config import nearest
from vitkit.data import Example, ReadOptions, Source


# Images in encoded files: derive from vitkit.data.EncodedSource and define `encoded`, which returns a path or bytes.
class MySource(Source):
    """Images of circles and squares on a gray background. `seed` determines sizes and positions."""

    classes = ("circle", "square")

    def __init__(self, number: int = 200, size: int = 32, seed: int = 0):
        if number < 1 or size < 8:
            raise ValueError(f"number is {number} and size is {size}; they must be at least 1 and 8")
        self.number, self.size, self.seed = number, size, seed

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.number

    def label(self, index: int) -> int:
        """Returns the label without reading the image: an index into `classes`, or -1 for no label."""
        return index % len(self.classes)

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns an RGB image with its label. An index always gives the same image, so that a run can resume.

        Sources of image files pass `options` to `vitkit.images.open_channels`.
        """
        random = np.random.default_rng((self.seed, index))
        side = int(random.integers(self.size // 4, self.size // 2))
        left, top = (int(random.integers(0, self.size - side)) for _ in range(2))
        image = Image.new("RGB", (self.size, self.size), (96, 96, 96))
        draw = ImageDraw.Draw(image)
        shape = draw.ellipse if self.classes[self.label(index)] == "circle" else draw.rectangle
        shape((left, top, left + side, top + side), fill=(220, 200, 40))
        # The key names the image in messages and reports. Keys must be unique.
        return Example(image=image, label=self.label(index), key=f"shape {index}")


def open_source(location: str) -> dict[str, Source]:
    """Returns the splits: `train` and `val` (or `test`), or `all`, of which a part is held out for validation."""
    options = {"number": 200, "size": 32, "seed": 0}
    for part in filter(None, location.replace("&", ",").split(",")):
        name, _, value = part.partition("=")
        if name not in options or not value.isdecimal():
            raise ValueError(f"unknown option '{part}' of the data source my_source{nearest(name, options)}")
        options[name] = int(value)
    return {"all": MySource(**options)}
