"""Untrusted bytes to an RGB picture: probe, decode what the probe left, apply the contract of `vitkit.images`."""

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

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
from vitkit.images.color import Color, Profile, check_background, over, split_alpha, to_srgb
from vitkit.images.depth import floats_to_bytes, integers_to_bytes
from vitkit.images.errors import DEFAULT_LIMITS, ImageError, Limits
from vitkit.images.files import Source, read_source
from vitkit.images.formats import BIG, truncated
from vitkit.images.formats.tiff import silence_libtiff
from vitkit.images.header import Header, read_orientation, upright
from vitkit.images.probe import probe

# The decoders are called by name: Image.open would try others, and warns through process-wide state.
_DECODERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}
#: In these formats a sound header that the decoder refuses means a pixel layout that it does not know.
_MANY_LAYOUTS: Final = frozenset({"BMP", "TIFF"})


def _open(header: Header) -> ImageFile.ImageFile:
    """Let the decoder read the cleaned header, and make sure that it sees the size that was checked."""
    if header.format == "TIFF":
        silence_libtiff()
    decoder = _DECODERS.get(header.format) or Image.OPEN[header.format][0]
    try:
        image = decoder(io.BytesIO(header.clean), "")
    except Exception:
        # Decoders raise a dozen kinds of error on broken files, with texts that hold addresses.
        code = "unsupported_format" if header.format in _MANY_LAYOUTS else "corrupt"
        raise ImageError(code, f"the {header.format} decoder does not accept the file") from None
    if image.size != (header.width, header.height):
        raise ImageError("corrupt", "the file states two different sizes")
    return image


_SIGNS_OF_AN_END: Final = ("truncated", "not large enough", "not enough image data")


def _ends_early(error: Exception) -> bool:
    """Whether a decoder's error says that data are missing rather than wrong."""
    text = str(error).lower()
    return isinstance(error, EOFError | struct.error) or any(sign in text for sign in _SIGNS_OF_AN_END)


def _finished(header: Header) -> Header:
    """The header of a JPEG without an end marker, the marker put in its place; error: truncated.

    Whether more than the marker is missing shows in what comes after: a decoder that has all its pixels never looks
    at it, one that has not turns other bytes into other pixels. Of a big picture an eighth of the size shows that.
    """
    pictures = set()
    for filler in (b"\x55", b"\xaa", b"\xff\0"):
        whole = replace(header, clean=header.clean + filler * 64 + b"\xff\xd9", complete=True)
        image = _open(whole)
        if header.width * header.height * 4 > BIG:
            image.draft(image.mode, (header.width // 8, header.height // 8))
        _load(image, allow_truncated=False)
        pictures.add(image.tobytes())
    if len(pictures) > 1:
        raise truncated()
    return whole


def _load(image: ImageFile.ImageFile, allow_truncated: bool) -> None:
    try:
        image.load()
    except MemoryError:
        raise ImageError("too_large", "there is not enough memory to decode the picture") from None
    except Exception as error:
        if not _ends_early(error):
            raise ImageError("corrupt", "the picture's data are damaged") from None
        if not allow_truncated or not _keep_what_is_there(image):
            raise truncated() from None


def _keep_what_is_there(image: ImageFile.ImageFile) -> bool:
    """Make a picture of the rows that were decoded before the end; False if the decoder has given none."""
    image.tile = []
    try:
        image.load()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _key_to_alpha(image: Image.Image, header: Header) -> Image.Image | None:
    """The alpha channel that a colour key or an alpha table stands for (PNG tRNS, GIF clear index)."""
    key = header.transparency
    if not key:
        return None
    if image.mode == "P":
        table = key if header.format == "PNG" else tuple(0 if i == key[0] else 255 for i in range(256))
        return image.point([*table, *[255] * (256 - len(table))], "L")
    if header.format == "GIF":  # without a colour table the indices are grey levels
        return image.point([0 if i == key[0] else 255 for i in range(256)], "L") if image.mode == "L" else None
    pixels = np.asarray(image)
    if image.mode in ("1", "L"):  # the decoder has spread fewer than 8 bits over 0 to 255
        spread = key[0] * 255 // ((1 << header.bits) - 1)
        opaque = pixels.astype(np.uint8) * (255 if image.mode == "1" else 1) != spread
    elif image.mode.startswith("I"):
        opaque = pixels != key[0]
    else:  # of 16-bit colours the decoder has kept the upper halves
        opaque = (pixels != np.array(key) >> max(header.bits - 8, 0)).any(axis=-1)
    return Image.fromarray(opaque.astype(np.uint8) * 255)


def _eight_bits(image: Image.Image, header: Header) -> Image.Image:
    """Whole numbers and floats of more than 8 bits to grey of 8 bits."""
    if image.mode == "F":
        values = floats_to_bytes(np.asarray(image), clip=True)
    elif image.mode.startswith("I"):
        wide = np.asarray(image)
        if image.mode == "I" and header.bits == 32 and not header.signed:
            wide = wide.view(np.uint32)  # the decoder keeps unsigned numbers in a signed type
        values = integers_to_bytes(wide, header.bits - header.signed)
    else:
        return image
    return Image.fromarray(255 - values if header.inverted else values)


def _place(image: Image.Image, alpha: Image.Image | None, header: Header) -> tuple[Image.Image, Image.Image | None]:
    """Put a frame that is smaller than its canvas on it; what it leaves free is transparent."""
    if header.placed is None:
        return image, alpha
    left, top, *size = header.placed
    canvas, opaque = Image.new(image.mode, size), Image.new("L", size)
    canvas.paste(image, (left, top))
    opaque.paste(alpha if alpha is not None else Image.new("L", image.size, 255), (left, top))
    return canvas, opaque


def _layers(header: Header, allow_truncated: bool) -> tuple[Image.Image, Image.Image | None, Header]:
    """The decoded colours, their alpha, and the header with what only the decoder knew.

    The decoded picture itself ends here, so that its memory is free for what comes next.
    """
    loaded = _open(header)
    _load(loaded, allow_truncated)
    if header.format in ("AVIF", "HEIF"):  # the decoder reports the turn that the item properties ask for
        orientation, embedded = read_orientation(loaded.info.get("exif") or b""), loaded.info.get("icc_profile")
        header = replace(header, orientation=orientation, profile=embedded or None)
    key = _key_to_alpha(loaded, header)
    image, alpha = split_alpha(_eight_bits(loaded, header))
    return *_place(image, key if alpha is None else alpha, header), replace(header, clean=b"")


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
) -> Image.Image:
    """The picture in a file or in bytes, as the contract of `vitkit.images` says: upright, sRGB, 8 bits, mode RGB.

    background       what shows through transparent pixels
    allow_truncated  take a JPEG, PNG, GIF or BMP file that ends early; what is missing is grey, black or the background
    profile          "convert" turns embedded ICC profiles into sRGB, "ignore" takes the numbers as they are

    Safe in threads: nothing of the process is read or changed (but for `tiff.silence_libtiff`). Errors: ImageError.
    """
    check_background(background)
    header = probe(read_source(source, limits), limits, allow_truncated=allow_truncated)
    header = header if header.complete else _finished(header)
    image, alpha, header = _fast_layers(header) or _layers(header, allow_truncated)
    try:
        image = to_srgb(image, header.profile, profile)
    except ValueError:
        raise ImageError("unsupported_format", f"a {header.format} file of an unknown kind of colour") from None
    return upright(over(image, alpha, background), header.orientation)


def open_pixels(
    source: Source,
    *,
    limits: Limits = DEFAULT_LIMITS,
    background: Color = (255, 255, 255),
    allow_truncated: bool = False,
    profile: Profile = "convert",
    needed: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The array of what `open_image` gives, with its arguments and errors; it is the caller's to write to.

    `needed` is told the size (rows, columns) of an upright JPEG file and says how large it has to be at least; the
    array may then be a half, a quarter or an eighth as large.
    """
    check_background(background)
    data = read_source(source, limits)
    header = probe(data, limits, allow_truncated=allow_truncated)
    if header.orientation == 1 and (profile == "ignore" or header.profile is None):
        pixels = turbo.decode(header, None if needed is None else needed((header.height, header.width)))
        if pixels is not None and pixels.ndim == 3:
            return pixels
    return np.array(
        open_image(data, limits=limits, background=background, allow_truncated=allow_truncated, profile=profile)
    )
