"""Data sources (one module per source), and the recognition of split names.

A file without underscore has a function `open_source(location) -> {split: Source}` (see `vitkit.data`).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vitkit.regular import problem

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def split_of(path: str) -> str | None:
    """Returns the split named at the start of a file or folder name (train-00000.parquet, test/0.parquet), or None."""
    for part in reversed(Path(path).parts):
        word = re.split(r"[^a-z]", part.lower())[0]
        if word in SPLITS:
            return SPLITS[word]
    return None


def distinct_names(paths: Sequence[str]) -> list[str]:
    """Returns the file names of paths.

    If two file names are equal, returns the paths relative to the common folder instead.
    """
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, common).replace(os.sep, "/") for path in paths]


def listed_file(name: str, kind: str) -> Path:
    """Returns the path of a file that lists images. Raises ValueError if it is missing or not a regular file."""
    path = Path(name).expanduser()
    if not name or (wrong := problem(path)) == "does not exist":
        raise ValueError(f"there is no file '{name}'; expected {kind}:FILE")
    if wrong:
        raise ValueError(f"'{name}' {wrong}; expected {kind}:FILE")
    return path
