"""What splits are called: in folder names, file names, columns and data sets of the hub."""

import re
from pathlib import Path

# Every name of a split, by the split that it means.
NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {name: split for split, names in NAMES.items() for name in names}


def split_of(path: str) -> str | None:
    """The split that a file name or a folder of its path begins with: train-00000-of-00002.parquet, test/0.parquet."""
    for part in reversed(Path(path).parts):
        word = re.split(r"[^a-z]", part.lower())[0]
        if word in SPLITS:
            return SPLITS[word]
    return None
