"""What people hand to a processor or a pipeline, as a flat list of pictures."""

import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vitkit.images import Channels, ImageError, Limits, is_tensor

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
