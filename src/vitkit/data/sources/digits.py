"""Data source `digits`: 1,797 handwritten digits from the test set of UCI optdigits, included in vitkit."""

from importlib.resources import files
from typing import Unpack

import numpy as np
from PIL import Image

from vitkit.data import Example, ReadOptions, Source


class Digits(Source):
    """Images of handwritten digits, 8 x 8 pixels. The key of an image is its row number in the original file."""

    classes = tuple("0123456789")

    def __init__(self) -> None:
        with files("vitkit.data.sources").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
            counts, self.labels = arrays["images"], arrays["labels"]
        # The original values count the set pixels of a 4x4 cell: 0 to 16, scaled to 0 to 255.
        self.images = np.rint(counts * (255 / 16)).astype(np.uint8)

    def __len__(self) -> int:
        """Returns the number of images, 1797."""
        return int(self.labels.shape[0])

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns the digit as an RGB image with three equal channels."""
        image = Image.fromarray(self.images[index]).convert("RGB")
        return Example(image=image, label=self.label(index), key=self.key(index))

    def key(self, index: int) -> str:
        """Returns "digit" with the row number in the original file, counted from 0."""
        return f"digit {index}"

    def label(self, index: int) -> int:
        """Returns the digit as a class index."""
        return int(self.labels[index])


def open_source(location: str) -> dict[str, Source]:
    """Returns the digits as the split `all`. Raises ValueError if a location is given."""
    if location:
        raise ValueError(f"data source 'digits' takes no location, got 'digits:{location}'; write digits")
    return {"all": Digits()}
