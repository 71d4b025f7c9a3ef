"""Reads image files and converts in-memory images with any number of channels to `Bands`, RGB or grayscale.

The rules, in addition to those of `open_image`:

* Multi-band TIFF files and `.npy` arrays have as many bands as the model takes channels. Bands are values, not colors:
  their ICC profile is ignored and alpha is a band like others.
* PNG, WebP, GIF, AVIF and HEIF files have two channels (gray and alpha) or four (RGB and alpha); without alpha they are
  opaque. Other formats do so only if they have alpha. The colors are not composited over a background.
* The band axis of an array has as many values as there are channels; if several axes have, it is the last in numpy and
  the first in torch. An array of two axes is one band.
* Values of more than 8 bits become 8 bits by the rules of `depth`, one range for all bands, or linearly from 0 to
  `data_range`, the value of white.
"""

from collections.abc import Callable
from typing import Any, Final, Unpack

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitkit.images import npy
from vitkit.images.arrays import Channels, as_array, is_tensor, split_pil
from vitkit.images.bands import AnyImage, Bands, from_pixels
from vitkit.images.color import Color, Profile, check_background, to_srgb
from vitkit.images.decode import (
    OpenOptions,
    colors_to_srgb,
    decode_layers,
    decode_plain,
    open_image,
    open_pixels,
    turn,
)
from vitkit.images.depth import array_to_bytes, floats_to_bytes
from vitkit.images.errors import DEFAULT_LIMITS, ImageError, Limits
from vitkit.images.files import Source, read_source
from vitkit.images.formats import tiff
from vitkit.images.header import apply_orientation
from vitkit.images.probe import check_bytes, detect_format, probe
from vitkit.images.samples import band_bytes, values_to_bytes

#: Formats with an optional alpha channel: a file without one is opaque.
_ALPHA_FORMATS: Final = frozenset({"PNG", "WEBP", "GIF", "AVIF", "HEIF"})
#: Numbers of channels that are colors with alpha -> mode.
_WITH_ALPHA: Final = {2: "LA", 4: "RGBA"}


def open_channels(
    source: Source,
    channels: int = 3,
    *,
    limits: Limits = DEFAULT_LIMITS,
    background: Color = (255, 255, 255),
    allow_truncated: bool = False,
    profile: Profile = "convert",
    data_range: float | None = None,
) -> AnyImage:
    """Reads an image file with the given number of channels: as RGB for 3, as grayscale for 1, otherwise as `Bands`.

    The arguments are those of `open_image`, which reads RGB and grayscale; `.npy` arrays are read for any number.
    `data_range` also applies to integers of more than 8 bits in bands. Raises ImageError, also if the file has another
    number of channels.
    """
    check_background(background)
    data = read_source(source, limits, _detect)
    if npy.sniff(data):
        check_bytes(len(data), limits)
        with turn(len(data)):
            pixels = _array_file(data, channels, limits, data_range)
            return from_pixels(pixels[..., 0] if channels == 1 else pixels)
    if channels in (1, 3):
        image = open_image(
            data,
            limits=limits,
            background=background,
            allow_truncated=allow_truncated,
            profile=profile,
            data_range=data_range,
        )
        return image if channels == 3 else image.convert("L")
    check_bytes(len(data), limits)
    file = tiff.read_bands(data, limits) if tiff.sniff(data) else None
    if file is not None:
        _check_channels(file.bands, channels)
        with turn(file.width * file.height * file.bands):
            image = Bands.from_array(band_bytes(file, data_range, decode_plain))
        return Bands([apply_orientation(band, file.orientation) for band in image.bands])
    header = probe(data, limits, allow_truncated=allow_truncated)
    with turn(header.width * header.height):
        image, alpha, header = decode_layers(header, allow_truncated, data_range)
        if image.mode not in ("1", "L"):
            image = colors_to_srgb(image, header, profile)
        bands = _with_alpha(image, alpha, channels, opaque=header.format in _ALPHA_FORMATS)
        return Bands([apply_orientation(band, header.orientation) for band in bands.bands])


def open_rgb_pixels(
    source: Source,
    *,
    min_size: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
    **options: Unpack[OpenOptions],
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file like `open_pixels`. Also reads `.npy` arrays with three bands."""
    try:
        return open_pixels(source, min_size=min_size, **options)
    except ImageError as error:
        if error.code != "not_an_image":
            raise
    return np.array(open_channels(source, 3, **options))


def read_bytes(source: Source, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Returns the bytes of a file that `open_channels` supports. Raises ImageError or TypeError."""
    return read_source(source, limits, _detect)


def _detect(start: bytes) -> None:
    """Raises ImageError if the first bytes are neither those of an image file nor of a `.npy` array."""
    if not npy.sniff(start):
        detect_format(start)


def _check_channels(given: int, channels: int) -> None:
    if given != channels:
        raise ImageError("unsupported_format", f"the image has {given} channels; expected {channels}")


def _with_alpha(image: Image.Image, alpha: Image.Image | None, channels: int, *, opaque: bool) -> Bands:
    """Returns colors and alpha as bands. If `opaque` is True, an image without alpha gets opaque alpha."""
    gray = image.mode in ("1", "L")
    given = (1 if gray else 3) + (alpha is not None or opaque)
    mode = _WITH_ALPHA.get(channels)
    if mode is None or (alpha is None and not opaque) or (channels == 2 and not gray):
        _check_channels(given, channels)
    colors = image.convert("L" if channels == 2 else "RGB")
    return Bands([*colors.split(), alpha if alpha is not None else Image.new("L", image.size, 255)])


def count_bands(source: Source, limits: Limits = DEFAULT_LIMITS) -> int | None:
    """Returns the number of bands of a TIFF file, or None for other files and for RGB or grayscale images.

    `open_image` ignores bands in addition to RGB. Raises ImageError.
    """
    data = read_source(source, limits, _detect)
    check_bytes(len(data), limits)
    file = tiff.read_bands(data, limits) if tiff.sniff(data) else None
    return None if file is None or file.alpha or file.bands <= 3 else file.bands


def to_channels(
    image: Any,
    channels: int,
    *,
    axis: Channels | None = None,
    profile: Profile = "convert",
    data_range: float | None = None,
) -> Bands:
    """Converts an image in memory to `Bands`: a PIL image with alpha, a numpy array, a torch tensor or `Bands`.

    The arguments are those of `to_rgb`; `axis` is the position of the bands in an array. PIL images without alpha are
    opaque if they come from a file whose format has an optional alpha channel. Raises ValueError for another number of
    channels and for invalid values, TypeError, and ImageError from a lazily loaded PIL file.
    """
    if isinstance(image, Bands):
        _check_channels(len(image.bands), channels)
        return image
    if isinstance(image, Image.Image):
        opaque = getattr(image, "format", None) in _ALPHA_FORMATS
        colors, alpha, embedded, orientation = split_pil(image, data_range)
        colors = colors if colors.mode in ("1", "L") else to_srgb(colors, embedded, profile)
        bands = _with_alpha(colors, alpha, channels, opaque=opaque).bands
        return Bands([apply_orientation(band, orientation) for band in bands])
    if not is_tensor(image) and not isinstance(image, np.ndarray):
        raise TypeError(f"expected a PIL image, a numpy array or a torch tensor, got {type(image).__name__}")
    values = as_array(image)
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"an image must have the shape (h, w), (h, w, c) or (c, h, w) with no empty axis, got {values.shape}"
        )
    return Bands.from_array(bands_to_bytes(_bands_last(values, channels, axis, is_torch=is_tensor(image)), data_range))


def bands_to_bytes(values: np.ndarray, data_range: float | None) -> UInt8[np.ndarray, "*s"]:
    """Converts an array of bands to 8 bits. `data_range` is the white value of floats and of integers over 8 bits."""
    if data_range is not None and values.dtype.kind in "iu" and values.dtype.itemsize > 1:
        return floats_to_bytes(values, clip=True, data_range=data_range)
    return array_to_bytes(values, data_range)


def _array_file(data: bytes, channels: int, limits: Limits, data_range: float | None) -> UInt8[np.ndarray, "h w c"]:
    values = _bands_last(npy.read(data, limits), channels, None, is_torch=False)
    return values_to_bytes(values, data_range)


def find_bands(shape: tuple[int, ...], channels: int, axis: Channels | None, *, is_torch: bool) -> Channels:
    """Returns the position, "first" or "last", of the axis of length `channels` in the shape of an image.

    Raises ValueError if there is no such axis.
    """
    ends: dict[Channels, int] = {"first": shape[0], "last": shape[-1]}
    order: tuple[Channels, Channels] = ("first", "last") if is_torch else ("last", "first")
    for end in order:
        if len(shape) == 3 and ends[end] == channels and axis in (None, end):
            return end
    raise ValueError(f"the array has the shape {shape}; expected {channels} channels on the first or last axis")


def _bands_last(values: np.ndarray, channels: int, axis: Channels | None, *, is_torch: bool) -> np.ndarray:
    """Returns an array with the bands on the last axis. Raises ImageError if the number of bands is wrong."""
    if values.ndim == 2:
        values = values[..., None]
    try:
        first = find_bands(values.shape, channels, axis, is_torch=is_torch) == "first"
    except ValueError as error:
        raise ImageError("unsupported_format", str(error)) from None
    return np.moveaxis(values, 0, -1) if first else values
