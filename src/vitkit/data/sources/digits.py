"""`digits`: the 1,797 handwritten digits of the UCI optdigits test set, 8x8 pixels, inside the package (see
digits.md).
"""

from importlib.resources import files
from typing import Unpack

import numpy as np
from PIL import Image

from vitkit.data import Example, Opening, Source


class Digits(Source):
    """White digits on black, 8x8 pixels; a key is the number of the row in the original file."""

    classes = tuple("0123456789")

    def __init__(self) -> None:
        with files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
            counts, self.labels = arrays["images"], arrays["labels"]
        # 0..16 set pixels in a cell to 0..255.
        self.images = np.rint(counts * (255 / 16)).astype(np.uint8)

    def __len__(self) -> int:
        """1797."""
        return int(self.labels.shape[0])

    def read(self, index: int, **opening: Unpack[Opening]) -> Example:
        """The digit in three equal channels."""
        image = Image.fromarray(self.images[index]).convert("RGB")
        return Example(image=image, label=self.label(index), key=f"digit {index}")

    def label(self, index: int) -> int:
        """The digit's value."""
        return int(self.labels[index])


def open_source(location: str) -> dict[str, Source]:
    """The digits in one split; ValueError for a location, which they do not take."""
    if location:
        raise ValueError(f"the source 'digits' takes no location, '{location}' was given")
    return {"all": Digits()}
