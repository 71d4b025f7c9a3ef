"""Untrusted bytes, and pictures in memory, to a checked picture: upright, sRGB, 8 bits, mode RGB.

Contract (docs/images.md has it as a table, tests/images holds it fast):

* A file is judged by its own first bytes, never by its name: JPEG, PNG, WebP, GIF, BMP, TIFF, and AVIF and HEIF where
  this Pillow decodes them. Everything else is refused.
* The probe reads the file's structure and checks bytes, pixels and frames against `Limits` before anything is
  decoded; the decoder then gets a cleaned file with nothing but the first frame's pixels.
* What comes out: EXIF orientation applied; palettes, CMYK, YCCK, Lab and embedded ICC profiles turned into sRGB; alpha
  laid over a background (white); more than 8 bits cut to the upper 8; the first frame of an animation.
* What cannot be read raises `ImageError`, with a `code` of `CODES` and a message fit for a stranger's eyes. No warning
  is raised and nothing is printed; decoding may run in threads, since it neither reads nor changes state of the
  process (with one exception, `tiff.silence_libtiff`).

Level 0: Pillow and numpy only.
"""

from vitkit.images.arrays import Channels, as_array, find_channels, is_tensor, to_rgb
from vitkit.images.color import Color, Profile
from vitkit.images.decode import open_image, open_pixels
from vitkit.images.depth import array_to_bytes
from vitkit.images.errors import CODES, DEFAULT_LIMITS, Code, ImageError, Limits
from vitkit.images.files import SUFFIXES, Source
from vitkit.images.header import FORMATS, Format, Header
from vitkit.images.probe import probe, sniff

__all__ = [
    "CODES",
    "DEFAULT_LIMITS",
    "FORMATS",
    "SUFFIXES",
    "Channels",
    "Code",
    "Color",
    "Format",
    "Header",
    "ImageError",
    "Limits",
    "Profile",
    "Source",
    "array_to_bytes",
    "as_array",
    "find_channels",
    "is_tensor",
    "open_image",
    "open_pixels",
    "probe",
    "sniff",
    "to_rgb",
]
