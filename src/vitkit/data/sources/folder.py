"""`folder:photos/`: a folder of class folders, as in photos/daisy/1.jpg; or photos/train/daisy/1.jpg and
photos/val/...
"""

import os
from pathlib import Path

from vitkit.data import EncodedSource, Source
from vitkit.images import SUFFIXES

# The names of split folders, by the split they mean.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


class Folder(EncodedSource):
    """The pictures below the class folders of a folder, classes and pictures in the order of their names.

    A key is a picture's path inside the folder. Raises ValueError where there are no class folders, and for a class
    without a picture, by name.
    """

    def __init__(self, path: Path):
        self.path = path
        self.classes = tuple(_subfolders(path))
        if not self.classes:
            raise ValueError(f"the folder '{path}' has no class folders: a class is a folder with its pictures in it")
        self.keys: list[str] = []
        self.labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = _pictures(path, name)
            if not found:
                raise ValueError(f"the class folder '{path / name}' has no pictures")
            self.keys.extend(found)
            self.labels.extend([label] * len(found))

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.keys)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The file of a picture, or its bytes, and its key."""
        return self.path / self.keys[index], self.keys[index]

    def label(self, index: int) -> int:
        """The number of its class folder."""
        return self.labels[index]


def open_source(location: str) -> dict[str, Source]:
    """The split folders of a folder, or the whole as `all`; ValueError where it is no folder or holds nothing to
    learn.
    """
    path = Path(location).expanduser()
    if not location or not path.is_dir():
        raise ValueError(f"there is no folder '{location}': the source is written folder:PATH")
    names = _subfolders(path)
    found = {split: name for split, known in SPLITS.items() for name in names if name.lower() in known}
    # A class may be called "test"; splits are meant where training is one of them, and nothing else stands beside.
    if "train" in found and len(found) == len(names):
        return {split: Folder(path / name) for split, name in found.items()}
    return {"all": Folder(path)}


def _subfolders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _pictures(path: Path, name: str) -> list[str]:
    found = []
    for folder, subfolders, files in os.walk(path / name):
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        inside = Path(folder).relative_to(path)
        pictures = (file for file in files if Path(file).suffix.lower() in SUFFIXES and not file.startswith("."))
        found += [(inside / file).as_posix() for file in pictures]
    return sorted(found)
