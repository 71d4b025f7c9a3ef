"""Converts the decoded bytes of TIFF files with any number of bands to sample values and to 8 bits."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitkit.images.depth import array_to_bytes, floats_to_bytes, integers_to_bytes, wide_to_bytes
from vitkit.images.formats.tiff import BandFile
from vitkit.images.header import Header


def values_to_bytes(values: np.ndarray, data_range: float | None) -> UInt8[np.ndarray, "h w c"]:
    """Converts the sample values of a file to 8 bits. Values out of range are clipped, and NaN becomes 0."""
    if values.dtype in (np.uint8, np.bool_):
        return array_to_bytes(values)
    if data_range is not None or values.dtype.kind == "f":
        return floats_to_bytes(values, clip=True, data_range=data_range)
    bits = 8 * values.dtype.itemsize - (values.dtype.kind == "i")
    return integers_to_bytes(values, bits) if bits <= 16 else wide_to_bytes(values, bits)


def band_bytes(
    file: BandFile, data_range: float | None, decode: Callable[[Header], Image.Image]
) -> UInt8[np.ndarray, "h w c"]:
    """Returns the bands of a TIFF file as 8-bit values. `decode` decodes one grayscale file of a `BandFile`."""
    width = -(-file.width // file.columns) * file.columns
    values = np.empty((file.height, file.width, file.bands), file.dtype.newbyteorder("="))
    for number, header in enumerate(file.files):
        raw = np.asarray(decode(header)).reshape(file.height, width, -1)
        part = slice(number, number + 1) if file.planar else slice(None)
        values[..., part] = _samples(raw, file)[:, : file.width]
    pixels = values_to_bytes(values, data_range)
    return 255 - pixels if file.inverted else pixels


def _samples(raw: UInt8[np.ndarray, "h w bytes"], file: BandFile) -> np.ndarray:
    """Returns the sample values (h, w, bands) of decoded bytes, after undoing the predictor in each tile."""
    height, width, size = raw.shape
    bands = size // file.dtype.itemsize
    if file.predictor == 1:
        return raw.view(file.dtype).reshape(height, width, bands)
    tiles = raw.reshape(height, width // file.columns, file.columns, size)
    if file.predictor == 3:
        return _from_float_predictor(tiles, file.dtype, bands).reshape(height, width, bands)
    unsigned = f"u{file.dtype.itemsize}"
    differences = tiles.view(np.dtype(unsigned).newbyteorder(file.dtype.byteorder)).astype(unsigned)
    values = np.cumsum(differences, axis=2, dtype=unsigned, out=differences).view(file.dtype.newbyteorder("="))
    return values.reshape(height, width, bands)


def _from_float_predictor(tiles: UInt8[np.ndarray, "h t w bytes"], dtype: np.dtype, bands: int) -> np.ndarray:
    """Undoes TIFF's floating-point predictor, which stores byte differences grouped by byte significance."""
    height, count, columns, _ = tiles.shape
    rows = tiles.reshape(height, count, -1, bands)
    planes = np.cumsum(rows, axis=2, dtype=np.uint8).reshape(height, count, dtype.itemsize, columns * bands)
    values = np.ascontiguousarray(np.moveaxis(planes, 2, -1)).view(dtype.newbyteorder(">"))
    return values.reshape(height, count, columns, bands)
