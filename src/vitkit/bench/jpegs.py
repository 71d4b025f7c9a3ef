"""JPEG files for measurements where no folder is given: smooth noise, of the size of ImageNet's photos."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZES = ((500, 375), (375, 500), (500, 333), (640, 480))


def write_jpegs(folder: Path, count: int) -> tuple[str, ...]:
    """Writes `count` JPEG files, quality 90, about as many bytes each as a photo, and returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    names = []
    for number in range(count):
        columns, rows = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(generator.integers(0, 256, (rows // 8, columns // 8, 3), np.uint8))
        fine = Image.fromarray(generator.integers(0, 256, (rows, columns, 3), np.uint8))
        smooth = coarse.resize((columns, rows), Image.Resampling.BICUBIC)
        picture = Image.blend(smooth, fine.filter(ImageFilter.GaussianBlur(1)), 0.25)
        name = folder / f"photo{number:04}.jpg"
        picture.save(name, quality=90)
        names.append(str(name))
    return tuple(names)
