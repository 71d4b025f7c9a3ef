"""Processes an image with the slow processors of transformers 4.57.6; test_image_processors.py runs it in a process.

Usage: PYTHONPATH=(folder of transformers 4) python oracle_processors4.py FOLDER. Each subfolder has a
preprocessor_config.json; `image.png` of FOLDER is processed. The pixels are written to out.npy of the subfolder, and
the processor as version 4 saves it to `again/`. Warnings are errors.
"""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import transformers
from oracle_transformers4 import Warnings
from PIL import Image


def main(folder: Path) -> None:
    """Processes every folder."""
    assert transformers.__version__.startswith("4."), transformers.__version__
    warnings.simplefilter("error")
    transformers.logging.get_logger("transformers").addHandler(Warnings(logging.WARNING))
    image = Image.open(folder / "image.png")
    for path in sorted(folder.glob("*/preprocessor_config.json")):
        processor = transformers.AutoImageProcessor.from_pretrained(path.parent, use_fast=False)
        np.save(path.parent / "out.npy", processor(image)["pixel_values"][0])
        processor.save_pretrained(path.parent / "again")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
