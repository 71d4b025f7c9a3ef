"""Small images as text for a terminal."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# From black to white: space, light, medium and dark shade, full block.
SHADES = " \u2591\u2592\u2593\u2588"


def text_lines(image: Image.Image) -> list[str]:
    """Returns an image as lines of shaded blocks, two characters per pixel."""
    pixels: UInt8[np.ndarray, "h w"] = np.asarray(image.convert("L"))
    shades = pixels.astype(int) * len(SHADES) // 256
    return ["".join(SHADES[shade] * 2 for shade in row) for row in shades]


def side_by_side(columns: Sequence[Sequence[str]], *, gap: int = 4) -> str:
    """Joins text blocks horizontally; each column is as wide as its longest line."""
    height = max(len(column) for column in columns)
    widths = [max(len(line) for line in column) for column in columns]
    rows = []
    for index in range(height):
        cells = [column[index] if index < len(column) else "" for column in columns]
        rows.append((" " * gap).join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(rows)
