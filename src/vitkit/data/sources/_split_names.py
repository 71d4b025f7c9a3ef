"""Names of splits in folders, file names, columns and datasets of the Hub."""

import re
from pathlib import Path

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {name: split for split, names in NAMES.items() for name in names}


def split_of(path: str) -> str | None:
    """Return the split that the file name or a folder begins with: train-00000-of-00002.parquet, test/0.parquet."""
    for part in reversed(Path(path).parts):
        word = re.split(r"[^a-z]", part.lower())[0]
        if word in SPLITS:
            return SPLITS[word]
    return None
