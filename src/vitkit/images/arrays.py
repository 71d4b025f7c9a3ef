"""Pictures that a program holds in memory (PIL, numpy, torch) to 8-bit RGB, without importing torch."""

from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFile

from vitkit.images.color import Color, Profile, check_background, over, split_alpha, to_srgb
from vitkit.images.depth import array_to_bytes, floats_to_bytes, integers_to_bytes
from vitkit.images.errors import ImageError
from vitkit.images.header import read_orientation, upright

Channels = Literal["first", "last"]
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def is_tensor(image: object) -> bool:
    """Whether this is a torch tensor, judged by its manners."""
    return all(hasattr(image, name) for name in ("detach", "cpu", "numpy", "is_floating_point"))


def as_array(image: Any) -> np.ndarray:
    """A numpy array of a numpy array or torch tensor; bfloat16 and float16 tensors become float32."""
    if not is_tensor(image):
        return np.asarray(image)
    tensor = image.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def find_channels(shape: tuple[int, ...], channels: Channels | None, is_torch: bool) -> Channels:
    """Which end of a 3-D shape (or of a 4-D one without its first axis) counts the channels.

    An axis of 1, 3 or 4 counts channels; if both ends have such a length, the last does for numpy and the first for
    torch, as pictures are kept there; if neither has, an axis of 2 (grey and alpha) does by the same rule.
    Errors: ValueError.
    """
    ends: dict[Channels, int] = {"first": shape[0], "last": shape[-1]}
    if channels is not None:
        if channels not in ends:
            raise ValueError(f'channels is "first", "last" or None, got {channels!r}')
        if ends[channels] not in _MODES:
            raise ValueError(f"shape {shape} has {ends[channels]} channels {channels}; a picture has 1, 2, 3 or 4")
        return channels
    order: tuple[Channels, Channels] = ("first", "last") if is_torch else ("last", "first")
    for counts in ((1, 3, 4), (2,)):
        for end in order:
            if ends[end] in counts:
                return end
    raise ValueError(f"neither end of shape {shape} counts channels: a picture has 1, 2, 3 or 4 of them")


def _from_array(values: np.ndarray, channels: Channels | None, is_torch: bool) -> Image.Image:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(f"a picture has the shape (h, w), (h, w, c) or (c, h, w) with no zero, got {values.shape}")
    pixels = array_to_bytes(values)
    if pixels.ndim == 3:
        if find_channels(pixels.shape, channels, is_torch) == "first":
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _wide_pil(image: Image.Image) -> Image.Image:
    """Modes of more than 8 bits to grey; mode I holds 8 or 16 bits, whichever its largest value needs."""
    if image.mode == "F":
        return Image.fromarray(floats_to_bytes(np.asarray(image), clip=False))
    if image.mode.startswith("I;16"):
        return Image.fromarray(integers_to_bytes(np.asarray(image), 16))
    return Image.fromarray(array_to_bytes(np.asarray(image))) if image.mode == "I" else image


def _key_to_alpha(image: Image.Image) -> Image.Image:
    """A colour key or alpha table (`info["transparency"]`) to an alpha channel."""
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
    # Pillow warns when it converts such a picture; the key is dealt with here.
    plain.info.pop("transparency")
    plain = plain.convert("RGB")
    plain.putalpha(alpha)
    return plain


def _from_pil(image: Image.Image, background: Color, profile: Profile) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"the picture has no pixels: its size is {image.size}")
    if image.mode == "RGB" and type(image) is Image.Image and "transparency" not in image.info:
        return image
    try:
        image.load()
    except Exception:
        raise ImageError("corrupt", "the picture's data are damaged or end early") from None
    # Only a picture as Image.open gave it still lies as it was stored: any operation on it makes a plain Image.
    stored = isinstance(image, ImageFile.ImageFile)
    orientation = read_orientation(image.info.get("exif") or b"") if stored else 1
    embedded = image.info.get("icc_profile") if stored else None
    flat, alpha = split_alpha(_key_to_alpha(_wide_pil(image)))
    return upright(over(to_srgb(flat, embedded, profile), alpha, background), orientation)


def to_rgb(
    image: Any,
    *,
    channels: Channels | None = None,
    background: Color = (255, 255, 255),
    profile: Profile = "convert",
) -> Image.Image:
    """A picture held in memory as an 8-bit RGB PIL picture.

    image     a PIL picture of any mode; a numpy array or torch tensor (h, w), (h, w, c) or (c, h, w) with 1, 2, 3 or
              4 channels (grey, grey and alpha, RGB, RGBA) of uint8, uint16, bool, other whole numbers or floats
    channels  where the channels are, for shapes that leave it open; see `find_channels` for the rule without it

    A PIL picture straight from Image.open is turned upright and its ICC profile applied, as for a file; one that an
    operation made is taken as it is. An RGB picture without an open question is returned itself, not copied.
    Errors: ValueError for shapes, types and values that no picture has; TypeError; ImageError from a lazy PIL file.
    """
    check_background(background)
    if isinstance(image, Image.Image):
        return _from_pil(image, background, profile)
    if not is_tensor(image) and not isinstance(image, np.ndarray):
        raise TypeError(f"a picture in memory is a PIL, numpy or torch one, got {type(image).__name__}")
    picture = _from_array(as_array(image), channels, is_tensor(image))
    return _from_pil(picture, background, profile)
