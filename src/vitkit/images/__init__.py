"""Reads untrusted image files, and converts images in memory. Both become upright 8-bit sRGB images.

The contract (docs/images.md has the table, tests/images checks it):

* The format is detected from the content, never from the file name: JPEG, PNG, WebP, GIF, BMP, TIFF, and AVIF and HEIF
  if Pillow can decode them. Other formats are rejected.
* `probe` reads the structure of a file and checks bytes, pixels and frames against `Limits` before anything is decoded.
  The decoder then gets a cleaned file that contains only the pixels of the first frame.
* `open_channels` reads images with any number of channels under the same limits: multi-band TIFF files, arrays of
  numpy, and alpha as a channel (see `multiband`).
* The result has EXIF orientation applied; palettes, CMYK, YCCK, Lab and embedded ICC profiles converted to sRGB; alpha
  composited over a background (white); more than 8 bits reduced to the upper 8; the first frame of an animation.
* An unreadable file raises `ImageError` with a `code` of `CODES` and a message that is safe to show. No warning is
  raised and nothing is printed. Decoding is thread-safe, because it neither reads nor changes global state (except
  `formats.tiff.silence_libtiff`).

Level 0: imports only Pillow and numpy.
"""

from vitkit.images.arrays import Channels, as_array, find_channels, is_tensor, to_rgb
from vitkit.images.bands import AnyImage, Bands, from_pixels
from vitkit.images.color import Color, Profile
from vitkit.images.decode import OpenOptions, open_image, open_pixels
from vitkit.images.depth import array_to_bytes
from vitkit.images.errors import CODES, DEFAULT_LIMITS, Code, ImageError, Limits
from vitkit.images.files import ARRAY_SUFFIXES, SUFFIXES, Source, describe
from vitkit.images.folders import Unlisted, subfolders, unlisted, walk
from vitkit.images.header import FORMATS, Format, Header
from vitkit.images.multiband import (
    bands_to_bytes,
    count_bands,
    find_bands,
    open_channels,
    open_rgb_pixels,
    read_bytes,
    to_channels,
)
from vitkit.images.probe import probe, sniff

__all__ = [
    "ARRAY_SUFFIXES",
    "CODES",
    "DEFAULT_LIMITS",
    "FORMATS",
    "SUFFIXES",
    "AnyImage",
    "Bands",
    "Channels",
    "Code",
    "Color",
    "Format",
    "Header",
    "ImageError",
    "Limits",
    "OpenOptions",
    "Profile",
    "Source",
    "Unlisted",
    "array_to_bytes",
    "as_array",
    "bands_to_bytes",
    "count_bands",
    "describe",
    "find_bands",
    "find_channels",
    "from_pixels",
    "is_tensor",
    "open_channels",
    "open_image",
    "open_pixels",
    "open_rgb_pixels",
    "probe",
    "read_bytes",
    "sniff",
    "subfolders",
    "to_channels",
    "to_rgb",
    "unlisted",
    "walk",
]
