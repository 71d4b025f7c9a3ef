"""`Bands`: an 8-bit image with any number of channels, for models that take neither RGB nor grayscale images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class Bands:
    """An 8-bit image with any number of channels, stored as one grayscale PIL image of the same size per channel.

    It has the methods of PIL images that preprocessing needs. They apply Pillow's operation to each band, so that the
    result equals that of the bands alone. `np.asarray(bands)` has the shape (height, width, bands).
    """

    mode = "bands"

    def __init__(self, bands: Sequence[Image.Image]):
        if not bands or any(band.mode != "L" or band.size != bands[0].size for band in bands):
            given = ", ".join(f"{band.mode} {band.size[0]}x{band.size[1]}" for band in bands[:4]) or "no image"
            raise ValueError(f"Bands needs at least one image, all of mode L and of the same size, got {given}")
        self.bands = tuple(bands)

    @classmethod
    def from_array(cls, pixels: UInt8[np.ndarray, "h w c"]) -> "Bands":
        """Converts an array with the channels on the last axis to `Bands`."""
        return cls([Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in range(pixels.shape[-1])])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.bands[0].width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bands[0].height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.bands[0].size

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        pixels = np.empty((self.height, self.width, len(self.bands)), np.uint8)
        for index, band in enumerate(self.bands):
            pixels[..., index] = np.asarray(band)
        return pixels if dtype is None else pixels.astype(dtype)

    def crop(self, box: tuple[int, int, int, int]) -> "Bands":
        """Returns the pixels inside a box (left, top, right, bottom). Pixels outside the image are 0."""
        return Bands([band.crop(box) for band in self.bands])

    def resize(
        self,
        size: tuple[int, int],
        resample: Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
    ) -> "Bands":
        """Returns the image, or the part inside `box`, resized to (width, height)."""
        return Bands([band.resize(size, resample, box=box) for band in self.bands])

    def transpose(self, method: Image.Transpose) -> "Bands":
        """Returns the image flipped or rotated by a multiple of 90 degrees."""
        return Bands([band.transpose(method) for band in self.bands])

    def transform(
        self, size: tuple[int, int], method: Image.Transform, data: Sequence[float], resample: Image.Resampling
    ) -> "Bands":
        """Returns the image after a geometric transform. Pixels from outside the image are 0."""
        return Bands([band.transform(size, method, data, resample) for band in self.bands])

    def padded(self, box: tuple[int, int, int, int], fill: Sequence[int]) -> "Bands":
        """Returns the pixels inside a box that may be larger than the image. `fill` has one padding value per band."""
        return Bands([_padded(band, box, value) for band, value in zip(self.bands, fill, strict=True)])

    def convert(self, mode: str) -> Image.Image:
        """Returns an RGB image for display: the first three bands, or the first band as gray if there are fewer.

        Raises ValueError for another mode than RGB.
        """
        if mode != "RGB":
            raise ValueError(f"an image of {len(self.bands)} bands cannot be converted to mode {mode}; expected RGB")
        return Image.merge("RGB", self.bands[:3] if len(self.bands) >= 3 else self.bands[:1] * 3)


def _padded(image: Image.Image, box: tuple[int, int, int, int], value: int) -> Image.Image:
    canvas = Image.new(image.mode, (box[2] - box[0], box[3] - box[1]), value)
    canvas.paste(image, (-box[0], -box[1]))
    return canvas


#: An image during preprocessing: RGB or grayscale, or with any number of channels.
AnyImage = Image.Image | Bands


def from_pixels(pixels: UInt8[np.ndarray, "h w *c"]) -> AnyImage:
    """Converts an array (h, w) to a grayscale image, (h, w, 3) to an RGB image, and (h, w, c) to `Bands`."""
    if pixels.ndim == 2 or pixels.shape[-1] == 3:
        return Image.fromarray(np.ascontiguousarray(pixels))
    return Bands.from_array(pixels)
