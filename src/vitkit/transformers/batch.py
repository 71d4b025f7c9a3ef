"""`BatchFeature`, and images in the forms that transformers accepts: paths, URLs, PIL, arrays, tensors, lists."""

import urllib.request
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image

from vitkit.images import Channels, ImageError, Limits, is_tensor


def to_jax(array: np.ndarray) -> Any:
    """The same numbers on JAX's default device; ImportError that says what to install where JAX is missing."""
    try:
        import jax.numpy as jnp
    except ModuleNotFoundError:
        raise ImportError("return_tensors=\"jax\" needs JAX: pip install 'vitkit[jax]'") from None
    return jnp.asarray(array)


def _to_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def _to_jax(array: np.ndarray) -> Any:

    return to_jax(array)


def _to_tensorflow(array: np.ndarray) -> Any:
    try:
        return import_module("tensorflow").constant(array)
    except ModuleNotFoundError:
        raise ImportError('return_tensors="tf" needs TensorFlow: pip install tensorflow') from None


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "pt": _to_torch,
    "np": np.asarray,
    "jax": _to_jax,
    "tf": _to_tensorflow,
}


class BatchFeature(UserDict[str, Any]):
    """Arrays by name, also as attributes: `batch.pixel_values`; `model(**batch)` takes them."""

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: Any = None):
        super().__init__(dict(data or {}))
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(f"there is no '{name}' here; there is {', '.join(self.__dict__.get('data', {}))}")
        return self.data[name]

    def convert_to_tensors(self, tensor_type: Any = None) -> "BatchFeature":
        """Turns lists of arrays into one array of a kind: "pt", "np", "jax", "tf"; None leaves them as they are.

        Raises ValueError for another kind and for arrays of different shapes, ImportError where the library is missing.
        """
        kind = getattr(tensor_type, "value", tensor_type)
        if kind is None:
            return self
        if kind not in KINDS:
            raise ValueError(f"unknown return_tensors {tensor_type!r}; there is {', '.join(map(repr, KINDS))} and None")
        for name, value in self.data.items():
            if isinstance(value, list) and len({np.shape(item) for item in value}) > 1:
                raise ValueError(
                    f"the pictures of '{name}' have different shapes: use return_tensors=None, or resize them"
                )
            self.data[name] = KINDS[kind](np.stack(value) if isinstance(value, list) else value)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "BatchFeature":
        """Moves torch tensors, arguments as of `Tensor.to`; only those of floats change their type."""
        import torch

        device = kwargs.get("device")
        for argument in args:
            if isinstance(argument, str | int | torch.device):
                device = argument
        for name, value in self.data.items():
            if isinstance(value, torch.Tensor):
                self.data[name] = value.to(*args, **kwargs) if value.is_floating_point() else value.to(device=device)
        return self


# Names that transformers gives to the place of the channels.
LAYOUTS: dict[str, Channels | None] = {"channels_first": "first", "channels_last": "last", "none": None}


def flat(images: Any) -> Iterator[Any]:
    """Every picture of a picture, a list, a list of lists, or an array of four axes, in order.

    Arrays of JAX and TensorFlow become numpy's; addresses (http, https) are fetched; paths, bytes and PIL stay.
    Raises ValueError for arrays of other numbers of axes, and ImageError where an address gives no data.
    """
    if isinstance(images, list | tuple):
        for image in images:
            yield from flat(image)
    elif isinstance(images, str) and images.startswith(("http://", "https://")):
        yield fetch(images)
    elif isinstance(images, np.ndarray) or is_tensor(images):
        yield from _pictures(images)
    elif hasattr(images, "__array__") and not isinstance(images, Image.Image):
        yield from _pictures(np.asarray(images))
    else:
        yield images


def _pictures(array: Any) -> Iterator[Any]:
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"a picture has 2 or 3 axes and a batch 4, this array has the shape {tuple(array.shape)}")
    yield array


def fetch(address: str, *, timeout: float | None = 30.0, limits: Limits | None = None) -> bytes:
    """The bytes behind an address, no more than `limits` allow an image to have."""
    most = (limits or Limits()).max_bytes
    try:
        with urllib.request.urlopen(address, timeout=timeout) as answer:
            data = answer.read(most + 1)
    except OSError as error:
        raise ImageError("unreadable", f"{address} gives no data: {error}") from None
    if len(data) > most:
        raise ImageError("too_large", f"{address} gives more than {most:,} bytes")
    return data


def layout(name: Any, argument: str) -> Channels | None:
    """Where channels are, by transformers' name for it; ValueError for another name."""
    name = getattr(name, "value", name)
    if name is None:
        return None
    if name not in LAYOUTS:
        raise ValueError(f"{argument} is {name!r}; it can be None, {', '.join(map(repr, LAYOUTS))}")
    return LAYOUTS[name]
