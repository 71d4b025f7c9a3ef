"""Decodes untrusted image files to upright 8-bit RGB images."""

import io
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypedDict

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vitkit.images import turbo
from vitkit.images.color import Color, Profile, check_background, composite, split_alpha, to_srgb
from vitkit.images.depth import floats_to_bytes, integers_to_bytes, wide_to_bytes
from vitkit.images.errors import DEFAULT_LIMITS, ImageError, Limits
from vitkit.images.files import Source, read_source
from vitkit.images.formats import BIG, tiff, truncated
from vitkit.images.formats.avif import heif_decoder
from vitkit.images.header import Header, apply_orientation, read_orientation
from vitkit.images.probe import probe
from vitkit.images.samples import band_bytes


class _Tiff(TiffImageFile):
    """Pillow's TIFF decoder without the warning for large images. `Limits` is checked before decoding."""

    def load_prepare(self) -> None:
        """Allocates the image without checking the number of pixels."""
        if self._im is None:
            self.im = Image.core.new(self.mode, getattr(self, "_tile_size", self.size))
        ImageFile.ImageFile.load_prepare(self)


# Decoders are called directly: Image.open would try others, and warns through global state.
_DECODERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": _Tiff,
    "AVIF": AvifImageFile,
}
#: In these formats, a valid header that the decoder rejects means an unsupported pixel layout.
_MANY_LAYOUTS: Final = frozenset({"BMP", "TIFF"})
#: Images with more pixels are decoded one at a time in a process, so that threads do not multiply their memory.
_LARGE: Final = 32_000_000
_LARGE_LOCK = threading.Lock()


def _renew_lock() -> None:
    """Creates a new lock in a forked process, because no thread of this process could release the old one."""
    global _LARGE_LOCK
    _LARGE_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def turn(pixels: int) -> Iterator[None]:
    """Context manager that lets only one large image be decoded at a time. Small images do not wait."""
    if pixels <= _LARGE:
        yield
        return
    with _LARGE_LOCK:
        yield


def _open(header: Header) -> ImageFile.ImageFile:
    """Opens the cleaned file. Raises ImageError if the decoder reports another size than the validated header."""
    if header.format == "TIFF":
        tiff.silence_libtiff()
    decoder = _DECODERS.get(header.format) or heif_decoder()
    assert decoder is not None, "the probe checks the decoder"
    try:
        image = decoder(io.BytesIO(header.clean), "")
    except Exception:
        # Decoders raise many types of errors for broken files, with messages that contain addresses.
        code = "unsupported_format" if header.format in _MANY_LAYOUTS else "corrupt"
        raise ImageError(code, f"the {header.format} decoder cannot read the file, which may be damaged") from None
    if image.size != (header.width, header.height):
        raise ImageError(
            "corrupt",
            f"the {header.format} header gives {header.width} x {header.height} pixels, but the decoder reads "
            f"{image.size[0]} x {image.size[1]}",
        )
    return image


_TRUNCATION_MESSAGES: Final = ("truncated", "not large enough", "not enough image data")


def _is_truncation(error: Exception) -> bool:
    """Returns whether a decoder error means that data is missing, rather than that data is invalid."""
    text = str(error).lower()
    return isinstance(error, EOFError | struct.error) or any(message in text for message in _TRUNCATION_MESSAGES)


def _with_end_marker(header: Header) -> Header:
    """Adds the missing end marker to a JPEG file. Raises ImageError if pixel data is also missing.

    Different bytes are appended and the results compared: a decoder with all pixels ignores them, otherwise they change
    the image. Large images are compared at an eighth of their size.
    """
    results = set()
    for filler in (b"\x55", b"\xaa", b"\xff\0"):
        completed = replace(header, clean=header.clean + filler * 64 + b"\xff\xd9", complete=True)
        image = _open(completed)
        if header.width * header.height * 4 > BIG:
            image.draft(image.mode, (header.width // 8, header.height // 8))
        _load(image, allow_truncated=False)
        results.add(image.tobytes())
    if len(results) > 1:
        raise truncated()
    return completed


def _load(image: ImageFile.ImageFile, allow_truncated: bool) -> None:
    try:
        image.load()
    except MemoryError:
        raise ImageError("too_large", f"not enough memory to decode {image.size[0]} x {image.size[1]} pixels") from None
    except Exception as error:
        if not _is_truncation(error):
            raise ImageError("corrupt", "the pixel data of the image is damaged") from None
        if not allow_truncated or not _load_decoded_rows(image):
            raise truncated() from None


def _load_decoded_rows(image: ImageFile.ImageFile) -> bool:
    """Keeps the rows decoded before the end of a truncated file. Returns False if that fails."""
    image.tile = []
    try:
        image.load()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _key_to_alpha(image: Image.Image, header: Header) -> Image.Image | None:
    """Returns the alpha channel of an image with a transparent color, a transparent palette index or an alpha table."""
    key = header.transparency
    if not key:
        return None
    if image.mode == "P":
        table = key if header.format == "PNG" else tuple(0 if i == key[0] else 255 for i in range(256))
        return image.point([*table, *[255] * (256 - len(table))], "L")
    if header.format == "GIF":  # without a color table the indices are gray values
        return image.point([0 if i == key[0] else 255 for i in range(256)], "L") if image.mode == "L" else None
    pixels = np.asarray(image)
    if image.mode in ("1", "L"):  # the decoder scales fewer than 8 bits to 0 to 255
        scaled = key[0] * 255 // ((1 << header.bits) - 1)
        opaque = pixels.astype(np.uint8) * (255 if image.mode == "1" else 1) != scaled
    elif image.mode.startswith("I"):
        opaque = pixels != key[0]
    else:  # the decoder returns the upper 8 bits of 16-bit colors
        opaque = (pixels != np.array(key) >> max(header.bits - 8, 0)).any(axis=-1)
    return Image.fromarray(opaque.astype(np.uint8) * 255)


def _eight_bits(image: Image.Image, header: Header, data_range: float | None) -> Image.Image:
    """Converts an image with more than 8 bits per pixel value (integers or floats) to 8-bit grayscale."""
    if image.mode == "F":
        values = floats_to_bytes(np.asarray(image), clip=True, data_range=data_range)
    elif image.mode.startswith("I"):
        wide = np.asarray(image)
        if image.mode == "I" and header.bits == 32 and not header.signed:
            wide = wide.view(np.uint32)  # the decoder returns unsigned values in a signed type
        convert = wide_to_bytes if header.bits == 32 else integers_to_bytes
        values = convert(wide, header.bits - header.signed)
    else:
        return image
    return Image.fromarray(255 - values if header.inverted else values)


def _paste_on_canvas(
    image: Image.Image, alpha: Image.Image | None, header: Header
) -> tuple[Image.Image, Image.Image | None]:
    """Pastes the first frame on its larger, transparent canvas. Returns the colors and the alpha channel."""
    if header.canvas_position is None:
        return image, alpha
    left, top, *size = header.canvas_position
    canvas, opaque = Image.new(image.mode, size), Image.new("L", size)
    canvas.paste(image, (left, top))
    opaque.paste(alpha if alpha is not None else Image.new("L", image.size, 255), (left, top))
    return canvas, opaque


def _layers(
    header: Header, allow_truncated: bool, data_range: float | None
) -> tuple[Image.Image, Image.Image | None, Header]:
    """Decodes an image. Returns the colors, the alpha channel, and the header with metadata from the decoder.

    The decoded PIL file goes out of scope here to free its memory.
    """
    if header.misread:
        file = tiff.read_bands(header.clean, replace(DEFAULT_LIMITS, max_pixels=sys.maxsize))
        assert file is not None, "the probe checks the samples"
        return Image.fromarray(band_bytes(file, data_range, decode_plain)[..., 0]), None, replace(header, clean=b"")
    loaded = _open(header)
    _load(loaded, allow_truncated)
    if header.format in ("AVIF", "HEIF"):
        # The AVIF decoder returns the orientation of the item properties, the HEIF decoder applies it.
        exif = loaded.info.get("exif") if header.format == "AVIF" else None
        orientation, embedded = read_orientation(exif or b""), loaded.info.get("icc_profile")
        header = replace(header, orientation=orientation, profile=embedded or None)
    key = _key_to_alpha(loaded, header)
    image, alpha = split_alpha(_eight_bits(loaded, header, data_range))
    return *_paste_on_canvas(image, key if alpha is None else alpha, header), replace(header, clean=b"")


def _fast_layers(header: Header) -> tuple[Image.Image, None, Header] | None:
    pixels = turbo.decode(header)
    return None if pixels is None else (Image.fromarray(pixels), None, replace(header, clean=b""))


def open_image(
    source: Source,
    *,
    limits: Limits = DEFAULT_LIMITS,
    background: Color = (255, 255, 255),
    allow_truncated: bool = False,
    profile: Profile = "convert",
    data_range: float | None = None,
) -> Image.Image:
    """Reads an image file as an upright 8-bit sRGB image in mode RGB.

    source           path, bytes or open binary file
    limits           maximum size of the file and the image
    background       color behind transparent pixels
    allow_truncated  accept truncated JPEG, PNG, GIF and BMP files; missing pixels are gray, black or the background
    profile          "convert" embedded ICC profiles to sRGB, or "ignore" them
    data_range       value of white in files with floats; by default 1, 255 or 65535, by the largest value

    Thread-safe: no global state is changed (except by `tiff.silence_libtiff`). Raises ImageError.
    """
    check_background(background)
    header = probe(read_source(source, limits), limits, allow_truncated=allow_truncated)
    with turn(header.width * header.height):
        image, alpha, header = decode_layers(header, allow_truncated, data_range)
        image = colors_to_srgb(image, header, profile)
        return apply_orientation(composite(image, alpha, background), header.orientation)


def decode_layers(
    header: Header, allow_truncated: bool, data_range: float | None
) -> tuple[Image.Image, Image.Image | None, Header]:
    """Decodes a probed file. Returns the colors, alpha channel and completed header. Must be called within `turn`."""
    header = header if header.complete else _with_end_marker(header)
    return _fast_layers(header) or _layers(header, allow_truncated, data_range)


def colors_to_srgb(image: Image.Image, header: Header, profile: Profile) -> Image.Image:
    """Converts the colors of a decoded file to sRGB. Raises ImageError for an unsupported color space."""
    try:
        return to_srgb(image, header.profile, profile)
    except ValueError:
        raise ImageError(
            "unsupported_format", f"the {header.format} file has an unsupported color space; save it as RGB"
        ) from None


def decode_plain(header: Header) -> Image.Image:
    """Returns the image of a file as decoded by Pillow, without any conversion. Must be called within `turn`."""
    image = _open(header)
    _load(image, allow_truncated=False)
    return image


class OpenOptions(TypedDict, total=False):
    """Options of `open_image`."""

    limits: Limits
    background: Color
    allow_truncated: bool
    profile: Profile
    data_range: float | None


def _to_array(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Copies an RGB image to a writable array in chunks of rows. This needs less memory than `np.array`."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, (1 << 20) // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def open_pixels(
    source: Source,
    *,
    limits: Limits = DEFAULT_LIMITS,
    background: Color = (255, 255, 255),
    allow_truncated: bool = False,
    profile: Profile = "convert",
    data_range: float | None = None,
    min_size: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as a writable RGB array. Has the same arguments and errors as `open_image`.

    `min_size` maps the size (rows, columns) of an upright JPEG file to the minimum size of the result; the array may
    then be a half, a quarter or an eighth of the image size.
    """
    check_background(background)
    data = read_source(source, limits)
    header = probe(data, limits, allow_truncated=allow_truncated)
    if header.orientation == 1 and (profile == "ignore" or header.profile is None):
        with turn(header.width * header.height):
            pixels = turbo.decode(header, None if min_size is None else min_size((header.height, header.width)))
        if pixels is not None and pixels.ndim == 3:
            return pixels
    image = open_image(
        data,
        limits=limits,
        background=background,
        allow_truncated=allow_truncated,
        profile=profile,
        data_range=data_range,
    )
    return _to_array(image)
