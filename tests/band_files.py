"""Writes TIFF files with any number of bands, and numpy array files, for tests."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np

Order = Literal["<", ">"]
KINDS = {"u": 1, "i": 2, "f": 3}


def _predicted(part: np.ndarray, predictor: int) -> np.ndarray:
    """Return the bytes of rows (h, w, c) after a predictor of TIFF."""
    if predictor == 2:
        words = part.view(np.dtype(f"u{part.itemsize}").newbyteorder(part.dtype.byteorder))
        native = words.astype(f"u{part.itemsize}")
        native[:, 1:] -= native[:, :-1].copy()
        return native.astype(words.dtype)
    if predictor == 3:
        height, width, bands = part.shape
        places = part.astype(part.dtype.newbyteorder(">")).reshape(height, -1, 1).view(np.uint8)
        rows = np.ascontiguousarray(np.moveaxis(places.reshape(height, width * bands, part.itemsize), -1, 1))
        rows = rows.reshape(height, -1, bands)
        rows[:, 1:] -= rows[:, :-1].copy()
        return rows
    return part


def tiff(
    pixels: np.ndarray,
    *,
    order: Order = "<",
    planar: bool = False,
    tile: int = 0,
    rows: int = 7,
    deflate: bool = False,
    predictor: int = 1,
    photometric: int = 1,
    extra: dict[int, tuple[int, tuple[int, ...]]] | None = None,
) -> bytes:
    """Return a TIFF file of an array (h, w, c), in strips of `rows` rows or in square tiles.

    `extra` maps more tags to their type (3: short, 4: long) and values.
    """
    height, width, bands = pixels.shape
    ordered = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = [ordered[..., band : band + 1] for band in range(bands)] if planar else [ordered]
    parts = []
    for plane in planes:
        if tile:
            padded = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, plane.shape[2]), plane.dtype)
            padded[:height, :width] = plane
            boxes = [
                padded[top : top + tile, left : left + tile]
                for top in range(0, height, tile)
                for left in range(0, width, tile)
            ]
        else:
            boxes = [plane[top : top + rows] for top in range(0, height, rows)]
        data = [_predicted(np.ascontiguousarray(box), predictor).tobytes() for box in boxes]
        parts += [zlib.compress(each) if deflate else each for each in data]
    body = bytearray(8)
    offsets = []
    for part in parts:
        offsets.append(len(body))
        body += part + b"\0" * (len(part) % 2)
    sizes = tuple(map(len, parts))
    tags: dict[int, tuple[int, tuple[int, ...]]] = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (8 * pixels.itemsize,) * bands),
        259: (3, (8 if deflate else 1,)),
        262: (3, (photometric,)),
        277: (3, (bands,)),
        284: (3, (2 if planar else 1,)),
        317: (3, (predictor,)),
        339: (3, (KINDS[pixels.dtype.kind],) * bands),
    }
    if tile:
        tags |= {322: (4, (tile,)), 323: (4, (tile,)), 324: (4, tuple(offsets)), 325: (4, sizes)}
    else:
        tags |= {273: (4, tuple(offsets)), 278: (4, (rows,)), 279: (4, sizes)}
    tags |= extra or {}
    return _with_directory(body, order, tags)


def _with_directory(body: bytearray, order: str, tags: dict[int, tuple[int, tuple[int, ...]]]) -> bytes:
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            position = len(body)
            body += packed + b"\0" * (len(packed) % 2)
            packed = struct.pack(order + "I", position)
        entries.append(struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0"))
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    body[:8] = start + struct.pack(order + "I", len(body))
    return bytes(body) + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def array_file(values: Any, **options: Any) -> bytes:
    """Return a `.npy` file."""
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()
