"""Keeps libtiff, which Pillow decodes compressed TIFF files with, from printing on standard error.

libtiff writes a line for every damaged file, with whatever the file put into it, and Pillow has no switch for that.
libtiff's own switch is reached through the library that the Pillow wheel carries. It holds for the whole process, and
what it switches off is that printing alone: errors are reported as before.
"""

import contextlib
import ctypes
from functools import cache
from pathlib import Path

import PIL

#: Where the wheels for Linux, macOS and Windows keep their libraries.
_PLACES = ("../pillow.libs/libtiff-*.so*", ".dylibs/libtiff*.dylib", "../pillow.libs/*tiff*.dll")


@cache
def silence() -> bool:
    """Switch libtiff's printing off, once; False where the library cannot be reached, as in a distribution's Pillow."""
    for package in PIL.__path__:
        for place in _PLACES:
            for path in Path(package).parent.glob(f"{Path(package).name}/{place}"):
                with contextlib.suppress(OSError, AttributeError):
                    library = ctypes.CDLL(str(path.resolve()))
                    library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
                    library.TIFFSetErrorHandler.restype = ctypes.c_void_p
                    library.TIFFSetErrorHandler(None)
                    return True
    return False
