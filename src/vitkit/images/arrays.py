"""Converts images in memory (PIL, NumPy, torch) to 8-bit RGB images, without importing torch."""

from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFile

from vitkit.images.color import Color, Profile, check_background, composite, split_alpha, to_srgb
from vitkit.images.depth import array_to_bytes, floats_to_bytes, integers_to_bytes
from vitkit.images.errors import ImageError
from vitkit.images.header import apply_orientation, read_orientation

Channels = Literal["first", "last"]
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def is_tensor(image: object) -> bool:
    """Returns whether an object has the methods of a torch tensor."""
    return all(hasattr(image, name) for name in ("detach", "cpu", "numpy", "is_floating_point"))


def as_array(image: Any) -> np.ndarray:
    """Converts an array or tensor to NumPy. Floating-point tensors of less than 32 bits become float32."""
    if not is_tensor(image):
        return np.asarray(image)
    tensor = image.detach()
    if getattr(tensor, "is_meta", False):
        raise ValueError("a tensor on the device meta has no values; pass a tensor with values")
    if getattr(tensor, "is_quantized", False) or "strided" not in str(getattr(tensor, "layout", "strided")):
        kind, fix = ("quantized", "dequantize") if getattr(tensor, "is_quantized", False) else ("sparse", "to_dense")
        raise ValueError(f"a {kind} tensor is not an image; pass images.{fix}()")
    tensor = tensor.cpu()
    if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().numpy() if hasattr(tensor, "resolve_conj") else tensor.numpy()


def find_channels(shape: tuple[int, ...], channels: Channels | None, is_torch: bool) -> Channels:
    """Returns the position of the channel axis in the shape of an image: "first" or "last".

    The channel axis has length 1, 3 or 4; if both have, it is the last for numpy and the first for torch. If none has,
    an axis of length 2 (gray and alpha) is chosen by the same rule. Raises ValueError if there is no such axis.
    """
    ends: dict[Channels, int] = {"first": shape[0], "last": shape[-1]}
    if channels is not None:
        if channels not in ends:
            raise ValueError(f'channels must be "first", "last" or None, got {channels!r}')
        if ends[channels] not in _MODES:
            raise ValueError(f"shape {shape} has {ends[channels]} channels on the {channels} axis; expected 1 to 4")
        return channels
    order: tuple[Channels, Channels] = ("first", "last") if is_torch else ("last", "first")
    for counts in ((1, 3, 4), (2,)):
        for end in order:
            if ends[end] in counts:
                return end
    raise ValueError(
        f"shape {shape} has no channel axis; the first or last axis must have length 1, 2, 3 or 4 (grayscale images in "
        "one array need the axis: images[:, None])"
    )


def _from_array(values: np.ndarray, channels: Channels | None, is_torch: bool, data_range: float | None) -> Image.Image:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"an image must have the shape (h, w), (h, w, c) or (c, h, w) with no empty axis, got {values.shape}"
        )
    pixels = array_to_bytes(values, data_range)
    if pixels.ndim == 3:
        if find_channels(pixels.shape, channels, is_torch) == "first":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _wide_pil(image: Image.Image, data_range: float | None) -> Image.Image:
    """Converts PIL images with more than 8 bits per pixel value to 8-bit grayscale. Returns other images unchanged."""
    if image.mode == "F":
        return Image.fromarray(floats_to_bytes(np.asarray(image), clip=False, data_range=data_range))
    if image.mode.startswith("I;16"):
        return Image.fromarray(integers_to_bytes(np.asarray(image), 16))
    return Image.fromarray(array_to_bytes(np.asarray(image))) if image.mode == "I" else image


def _key_to_alpha(image: Image.Image) -> Image.Image:
    """Converts a transparent color or an alpha table (`info["transparency"]`) of a PIL image to an alpha channel."""
    key = image.info.get("transparency")
    if key is None or image.mode not in ("1", "L", "P", "RGB"):
        return image
    plain = image.copy()
    if image.mode == "P":
        table = list(key) if isinstance(key, bytes) else [0 if i == key else 255 for i in range(256)]
        alpha = image.point([*table, *[255] * (256 - len(table))], "L")
    else:
        opaque = np.asarray(image.convert("L") if image.mode == "1" else image) != np.asarray(key)
        alpha = Image.fromarray((opaque if opaque.ndim == 2 else opaque.any(axis=-1)).astype(np.uint8) * 255)
    # Remove the key, because Pillow would warn in `convert`.
    plain.info.pop("transparency")
    plain = plain.convert("RGB")
    plain.putalpha(alpha)
    return plain


def _from_pil(image: Image.Image, background: Color, profile: Profile, data_range: float | None = None) -> Image.Image:
    if image.mode == "RGB" and type(image) is Image.Image and "transparency" not in image.info and 0 not in image.size:
        return image
    flat, alpha, embedded, orientation = split_pil(image, data_range)
    return apply_orientation(composite(to_srgb(flat, embedded, profile), alpha, background), orientation)


def split_pil(
    image: Image.Image, data_range: float | None
) -> tuple[Image.Image, Image.Image | None, bytes | None, int]:
    """Returns the colors, alpha channel, embedded ICC profile and EXIF orientation of a PIL image."""
    if 0 in image.size:
        raise ValueError(f"the image has no pixels: its size is {image.size}")
    try:
        image.load()
    except Exception:
        raise ImageError("corrupt", "the image data is damaged or truncated") from None
    # Only the result of Image.open has the stored orientation; operations return a plain Image.
    opened = isinstance(image, ImageFile.ImageFile)
    orientation = read_orientation(image.info.get("exif") or b"") if opened else 1
    embedded = image.info.get("icc_profile") if opened else None
    flat, alpha = split_alpha(_key_to_alpha(_wide_pil(image, data_range)))
    return flat, alpha, embedded, orientation


def to_rgb(
    image: Any,
    *,
    channels: Channels | None = None,
    background: Color = (255, 255, 255),
    profile: Profile = "convert",
    data_range: float | None = None,
) -> Image.Image:
    """Converts an image in memory to an 8-bit RGB PIL image.

    image       PIL image of any mode; numpy array or torch tensor (h, w), (h, w, c) or (c, h, w) with 1, 2, 3 or 4
                channels (gray, gray and alpha, RGB, RGBA) of uint8, uint16, bool, other integers or floats
    channels    position of the channel axis where the shape is ambiguous; by default see `find_channels`
    background  color behind transparent pixels
    profile     "convert" embedded ICC profiles to sRGB, or "ignore" them
    data_range  value of white in floats; by default 1, 255 or 65535, by the largest value

    EXIF orientation and ICC profile are applied only to the direct result of Image.open. A plain RGB image is returned
    without a copy. Raises ValueError for invalid shapes, types and values, TypeError, and ImageError from a lazily
    loaded PIL file.
    """
    check_background(background)
    if isinstance(image, Image.Image):
        return _from_pil(image, background, profile, data_range)
    if not is_tensor(image) and not isinstance(image, np.ndarray):
        raise TypeError(f"expected a PIL, numpy or torch image, got {type(image).__name__}")
    plain = _from_array(as_array(image), channels, is_tensor(image), data_range)
    return _from_pil(plain, background, profile)
