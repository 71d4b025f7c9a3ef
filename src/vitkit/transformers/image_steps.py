"""The individual steps of image processors as methods: `resize`, `center_crop`, `rescale` and `normalize`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from vitkit.data.processor import ImageInput
from vitkit.data.processor.geometry import crop_start
from vitkit.images import Channels, as_array, find_channels, is_tensor
from vitkit.transformers.batch import BatchFeature, Images, parse_layout
from vitkit.transformers.hub import Argument

# A number, or one number per channel.
Values = float | Sequence[float]
OFF = {
    "do_convert_rgb": False,
    "do_resize": False,
    "do_rescale": False,
    "do_normalize": False,
    "do_center_crop": False,
    "do_pad": False,
}
FORMATS = {"first": "channels_first", "last": "channels_last"}


class ImageSteps(ABC):
    """Base class of `BaseImageProcessor`. Each method applies one step to one array.

    `input_data_format` is the position of the channel axis ("channels_first", "channels_last" or None to find it),
    `data_format` that of the result; by default it stays.
    """

    @abstractmethod
    def preprocess(self, images: Images, *args: Argument, **kwargs: Argument) -> BatchFeature:
        """Processes images."""

    def resize(
        self,
        image: ImageInput,
        size: Mapping[str, int] | int,
        resample: int | None = None,
        data_format: Argument = None,
        input_data_format: Argument = None,
        **settings: Argument,
    ) -> np.ndarray:
        """Resizes an image. Pixels stay integers from 0 to 255, or floats from 0 to 1.

        `settings` are those of the class that change the size, such as `crop_pct`.
        """
        channels = _channels(as_array(image), input_data_format, is_torch=is_tensor(image))
        chosen = {"size": size, "resample": resample, **settings}
        chosen |= {"image_mean": 0.0, "image_std": 1.0, "input_data_format": FORMATS[channels]}
        batch = self.preprocess(image, **OFF | {"do_resize": True, "data_format": "channels_first"} | chosen)
        return _placed(batch["pixel_values"][0], "first", data_format, channels)

    def center_crop(
        self,
        image: ImageInput,
        size: Mapping[str, int],
        data_format: Argument = None,
        input_data_format: Argument = None,
    ) -> np.ndarray:
        """Crops the center of an image to a size with height and width. Smaller images are padded with zeros.

        Raises ValueError for a size without height or width.
        """
        if not {"height", "width"} <= set(size):
            raise ValueError(f"The size dictionary must have keys 'height' and 'width'. Got {', '.join(size)}")
        array, channels = _first(image, input_data_format)
        for axis, side in ((1, size["height"]), (2, size["width"])):
            start = crop_start(array.shape[axis], side, "huggingface")
            before, after = max(0, -start), max(0, start + side - array.shape[axis])
            array = np.pad(array, [(before, after) if each == axis else (0, 0) for each in range(3)])
            array = array.take(range(max(0, start), max(0, start) + side), axis=axis)
        return _placed(array, "first", data_format, channels)

    def rescale(
        self, image: ImageInput, scale: float, data_format: Argument = None, input_data_format: Argument = None
    ) -> np.ndarray:
        """Multiplies pixels by a factor. Returns float32."""
        array, channels = _first(image, input_data_format)
        return _placed((array.astype(np.float64) * scale).astype(np.float32), "first", data_format, channels)

    def normalize(
        self,
        image: ImageInput,
        mean: Values,
        std: Values,
        data_format: Argument = None,
        input_data_format: Argument = None,
    ) -> np.ndarray:
        """Subtracts the mean and divides by the standard deviation of each channel.

        Raises ValueError for another number of values than channels.
        """
        array, channels = _first(image, input_data_format)
        array = array if array.dtype.kind == "f" else array.astype(np.float32)
        count = array.shape[0]
        parts = []
        for name, values in (("mean", mean), ("std", std)):
            values = [values] * count if isinstance(values, int | float) else list(values)
            if len(values) != count:
                raise ValueError(f"{name} must have {count} elements if it is an iterable, got {len(values)}")
            parts.append(np.array(values, array.dtype)[:, None, None])
        return _placed((array - parts[0]) / parts[1], "first", data_format, channels)


def _channels(array: np.ndarray, stated: Argument, *, is_torch: bool) -> Channels:
    if array.ndim != 3:
        raise ValueError(
            f"the image has shape {array.shape}; expected three dimensions, with the channels first or last"
        )
    return parse_layout(stated, "input_data_format") or find_channels(array.shape, None, is_torch)


def _first(image: ImageInput, stated: Argument) -> tuple[np.ndarray, Channels]:
    """Returns the array with the channels first, and the original channel layout."""
    array = as_array(image)
    channels = _channels(array, stated, is_torch=is_tensor(image))
    return _placed(array, channels, "channels_first", channels), channels


def _placed(array: np.ndarray, now: Channels, data_format: Argument, default: Channels) -> np.ndarray:
    """Moves the channel axis as `data_format` requires, or as `default` requires if `data_format` is None."""
    wanted = parse_layout(data_format, "data_format") or default
    if now == wanted:
        return array
    return np.moveaxis(array, 0, -1) if now == "first" else np.moveaxis(array, -1, 0)
