"""`BatchFeature`, and functions that load images from paths, URLs, PIL images, arrays or lists."""

import urllib.request
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from vitkit.data.processor import ImageInput, Processor
from vitkit.data.processor.geometry import resize_and_crop, resize_image
from vitkit.images import Channels, ImageError, Limits, as_array, bands_to_bytes, find_channels, is_tensor, to_channels
from vitkit.text import printable
from vitkit.transformers.hub import Argument


def _to_torch(array: np.ndarray) -> object:
    import torch

    return torch.from_numpy(array)


def _to_jax(array: np.ndarray) -> object:
    try:
        import jax.numpy as jnp
    except ModuleNotFoundError:
        raise ImportError("return_tensors=\"jax\" needs JAX: pip install 'vitkit[jax]'") from None
    return jnp.asarray(array)


def _to_tensorflow(array: np.ndarray) -> object:
    try:
        return import_module("tensorflow").constant(array)
    except ModuleNotFoundError:
        raise ImportError('return_tensors="tf" needs TensorFlow: pip install tensorflow') from None


# One image, or a list or nested lists of images.
Images = ImageInput | Sequence["Images"]

TENSOR_TYPES: dict[str, Callable[[np.ndarray], object]] = {
    "pt": _to_torch,
    "np": np.asarray,
    "jax": _to_jax,
    "tf": _to_tensorflow,
}


class BatchFeature(UserDict[str, Any]):
    """A dict of arrays whose keys are also attributes, such as `batch.pixel_values`."""

    def __init__(self, data: Mapping[str, object] | None = None, tensor_type: Argument = None):
        super().__init__(dict(data or {}))
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(f"no field '{name}'; the fields are {', '.join(self.__dict__.get('data', {}))}")
        return self.data[name]

    def convert_to_tensors(self, tensor_type: Argument = None) -> "BatchFeature":
        """Stacks each list of arrays into one array of the framework "pt", "np", "jax" or "tf".

        None changes nothing. Raises ValueError for another type and for arrays of different shapes. Raises ImportError
        if the library is missing.
        """
        name_of_type = getattr(tensor_type, "value", tensor_type)
        if name_of_type is None:
            return self
        if name_of_type not in TENSOR_TYPES:
            choices = ", ".join(map(repr, TENSOR_TYPES))
            raise ValueError(f"return_tensors is {tensor_type!r}; expected None or one of {choices}")
        convert = TENSOR_TYPES[name_of_type]
        for name, value in self.data.items():
            if isinstance(value, list) and not value:
                raise ValueError(f"there are no images for '{name}'; pass at least one, or use return_tensors=None")
            if isinstance(value, list) and len({np.shape(item) for item in value}) > 1:
                raise ValueError(
                    f"the images of '{name}' have different shapes; resize them, or use return_tensors=None"
                )
            self.data[name] = convert(np.stack(value) if isinstance(value, list) else value)
        return self

    def to(self, *args: Argument, **kwargs: Argument) -> "BatchFeature":
        """Moves torch tensors to a device or casts them to a dtype. Takes the arguments of `Tensor.to`.

        Only floating-point tensors change their dtype.
        """
        import torch

        device = kwargs.get("device")
        for argument in args:
            if isinstance(argument, str | int | torch.device):
                device = argument
        for name, value in self.data.items():
            if isinstance(value, torch.Tensor):
                self.data[name] = value.to(*args, **kwargs) if value.is_floating_point() else value.to(device=device)
        return self


# transformers' names for the position of the channel dimension.
LAYOUTS: dict[str, Channels | None] = {"channels_first": "first", "channels_last": "last", "none": None}


def iterate_images(images: Images) -> Iterator[ImageInput]:
    """Yields the images in the input, which is a single image, a list or nested lists.

    JAX and TensorFlow arrays become numpy arrays; http and https URLs are downloaded; paths, bytes, PIL images and
    arrays of a batch (four dimensions) are yielded unchanged. Raises ValueError for an array that does not have 2, 3 or
    4 dimensions, and ImageError if a download fails.
    """
    if isinstance(images, list | tuple):
        for image in images:
            yield from iterate_images(image)
    elif isinstance(images, str) and images.startswith(("http://", "https://")):
        yield download(images)
    elif isinstance(images, np.ndarray) or is_tensor(images):
        yield _check_dimensions(images)
    elif hasattr(images, "__array__") and not isinstance(images, Image.Image):
        yield _check_dimensions(np.asarray(images))
    else:
        yield images


def _check_dimensions(array: ImageInput) -> ImageInput:
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"the array has shape {tuple(array.shape)}; expected 2 or 3 dimensions (image) or 4 (batch)")
    return array


def count_channels(image: ImageInput, channels: Channels | None) -> int:
    """Returns the number of channels that an image in memory has: 3 for paths, palettes and CMYK images.

    `channels` is the position of the channel axis, or None to find it (`vitkit.images.find_channels`).
    """
    if isinstance(image, Image.Image):
        return 4 if image.mode == "RGBA" else 1 if image.mode in ("1", "L", "F") or image.mode.startswith("I") else 3
    if not isinstance(image, np.ndarray) and not is_tensor(image):
        return 3
    shape = tuple(image.shape[1:] if image.ndim == 4 else image.shape)
    if len(shape) == 2:
        return 1
    where = channels or find_channels(shape, None, is_tensor(image))
    return shape[0] if where == "first" else shape[-1]


def resize_rgba(image: ImageInput, processor: Processor, channels: Channels | None) -> list[np.ndarray]:
    """Resizes and normalizes an image with 4 channels, or a batch of them, as transformers does.

    Pillow resizes the first three channels multiplied with the fourth, because it takes that for alpha.
    `vitkit.Processor` resizes each channel alone.
    """
    if (isinstance(image, np.ndarray) or is_tensor(image)) and image.ndim == 4:
        batch = bands_to_bytes(as_array(image), None)
        return [array for each in batch for array in resize_rgba(each, processor, channels)]
    rgba = Image.fromarray(np.asarray(to_channels(image, 4, axis=channels, profile="ignore")))
    to = processor.resized_size((rgba.height, rgba.width))
    if processor.center_crop == "none":
        resized = resize_image(rgba, to, processor.interpolation)
    else:
        crop = (processor.center_crop, processor.size, processor.fill)
        resized = resize_and_crop(rgba, to, processor.interpolation, *crop)
    return [processor.normalize(np.asarray(resized))]


def download(url: str, *, timeout: float | None = 30.0, limits: Limits | None = None) -> bytes:
    """Downloads an image. Raises ImageError if this fails or the image has more than `limits.max_bytes` bytes."""
    max_bytes, shown = (limits or Limits()).max_bytes, printable(url)[:200]
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            data = response.read(max_bytes + 1)
    except (OSError, HTTPException, ValueError) as error:  # a ValueError is an invalid URL
        raise ImageError("unreadable", f"cannot download {shown}: {printable(str(error))[:200]}") from None
    if len(data) > max_bytes:
        raise ImageError("too_large", f"{shown} is larger than {max_bytes:,} bytes")
    return data


def parse_layout(name: Argument, argument: str) -> Channels | None:
    """Converts transformers' name of a channel layout to vitkit's. Raises ValueError if the name is unknown."""
    name = getattr(name, "value", name)
    if name is None:
        return None
    if name not in LAYOUTS:
        raise ValueError(f"{argument} is {name!r}; expected None or one of {', '.join(map(repr, LAYOUTS))}")
    return LAYOUTS[name]
