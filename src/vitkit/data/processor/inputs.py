"""Splits inputs into single images: one image, sequences, iterators, datasets, and batches in one array."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, count
from typing import Any

import numpy as np
from PIL import Image

from vitkit.images import (
    AnyImage,
    Bands,
    Channels,
    ImageError,
    Unlisted,
    array_to_bytes,
    as_array,
    bands_to_bytes,
    describe,
    find_bands,
    find_channels,
    is_tensor,
)

#: An image: a path, bytes, an open binary file, a PIL image, a numpy array or a torch tensor.
ImageInput = Any


def split(images: ImageInput | Iterable[ImageInput]) -> tuple[Iterable[ImageInput], bool]:
    """Returns the images of an input, and whether the input is a single image.

    A path, bytes, an open file, a PIL image and an array of two or three axes are one image. Lists, other sequences,
    datasets with a length and integer indices, iterators and batches (arrays of four axes) are several. Raises
    TypeError for dicts, sets and other objects that are not images, and ValueError for arrays with another number of
    axes.
    """
    if is_single(images):
        return [images], True
    if isinstance(images, Mapping):
        raise TypeError(
            f"{describe(images)} is not an image; expected a path, an array or a list of images: pass one of its "
            "values, or list(images.values())"
        )
    if isinstance(images, Set):
        raise TypeError(f"{describe(images)} has no order; pass a list of images, such as sorted(images)")
    if is_tensor(images) or _is_array(images):
        return _of_array(images)
    if isinstance(images, Iterator | list | tuple):
        return images, False
    many: Any = images
    if hasattr(many, "__len__") and hasattr(many, "__getitem__"):  # also datasets, which may have no __iter__
        return (many[index] for index in range(len(many))), False
    if isinstance(images, Iterable):
        return images, False
    raise TypeError(
        f"{describe(images)} is not an image; expected a path, bytes or an open binary file, a PIL image, numpy array "
        "or torch tensor, or a list of these"
    )


def is_single(image: object) -> bool:
    """Returns whether the type of an object is that of one image: a path, bytes, open file or decoded image."""
    if isinstance(image, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Bands | Unlisted):
        return True
    # A dataset with a method `read` has a length but no `seek`. A file with a length, such as mmap, has `seek`.
    return callable(getattr(image, "read", None)) and (hasattr(image, "seek") or not hasattr(image, "__len__"))


def _is_array(image: object) -> bool:
    """Returns whether an object is an array or can be converted to one, such as a JAX array or a pandas column."""
    return hasattr(image, "__array__") and not isinstance(image, type)


def _of_array(images: Any) -> tuple[Iterable[ImageInput], bool]:
    values = images if is_tensor(images) or isinstance(images, np.ndarray) else np.asarray(images)
    if isinstance(values, np.ndarray) and values.dtype.kind in "OSUT":  # file names, or a column of images
        if values.ndim == 1:
            return values.tolist(), False
        raise TypeError(f"{describe(values)} is not an image; pass a list of paths")
    if values.ndim in (2, 3):
        return [values], True
    if values.ndim == 4:
        return [values], False
    raise ValueError(
        f"{describe(values)} is not an image; an image has the shape (h, w), (h, w, c) or (c, h, w), and a batch "
        "(b, c, h, w) or (b, h, w, c)"
    )


def each_image(
    images: ImageInput | Iterable[ImageInput],
    model_channels: int,
    *,
    channels: Channels | None = None,
    data_range: float | None = None,
) -> Iterator[ImageInput]:
    """Yields the single images of an input. A batch (an array or tensor of four axes) is split into its images.

    `model_channels` is the number of channels of the model. See `images.to_rgb` for `channels` and `data_range`. Raises
    TypeError and ValueError as `split` does, before the first image. An invalid batch in a list is yielded as one
    `Unlisted`.
    """
    many, _ = split(images)

    def expanded(position: int, image: ImageInput) -> Iterable[ImageInput]:
        array = image if is_tensor(image) or not _is_array(image) or is_single(image) else np.asarray(image)
        if getattr(array, "ndim", 0) != 4 or not (is_tensor(array) or isinstance(array, np.ndarray)):
            return [array]
        try:
            return unbatched(array, model_channels, channels=channels, data_range=data_range)
        except ValueError as error:
            if image is images:
                raise
            return [Unlisted(f"image {position}", ImageError("unsupported_format", str(error)))]

    return chain.from_iterable(map(expanded, count(), many))


def unbatched(
    batch: Any, model_channels: int, *, channels: Channels | None = None, data_range: float | None = None
) -> Sequence[AnyImage]:
    """Returns the images of a batch (b, c, h, w) or (b, h, w, c) of any numeric dtype as 8-bit images.

    The range of values is determined for the whole batch, so that a dark image among bright images is not brightened.
    Raises ValueError for another shape, dtype or range.
    """
    shape, is_torch, bands = tuple(batch.shape[1:]), is_tensor(batch), model_channels not in (1, 3)
    try:
        if 0 in shape:
            raise ValueError("a batch of images must have the shape (b, c, h, w) or (b, h, w, c) with no empty axis")
        if bands:
            position = find_bands(shape, model_channels, channels, is_torch=is_torch)
            pixels = bands_to_bytes(as_array(batch), data_range)
        else:
            position = find_channels(shape, channels, is_torch)
            pixels = array_to_bytes(as_array(batch), data_range)
    except ValueError as error:
        raise ValueError(f"{describe(batch)}: {error}") from None
    pixels = np.moveaxis(pixels, 1, -1) if position == "first" else pixels
    if bands:
        return [Bands.from_array(each) for each in pixels]
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return [Image.fromarray(np.ascontiguousarray(each)) for each in pixels]
