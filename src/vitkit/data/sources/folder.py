"""Source `folder:images/`: one folder per class, optionally in split folders (images/train/daisy/1.jpg).

A folder of images without class folders is a source without labels.
"""

import os
from collections.abc import Container
from pathlib import Path

from vitkit.data import EncodedSource, Source
from vitkit.data.sources import SPLIT_NAMES
from vitkit.images import ARRAY_SUFFIXES, SUFFIXES


class Folder(EncodedSource):
    """Images in class folders, sorted by name. The key of an image is its path inside the folder.

    Where no class folder has image files, the images are the `.npy` arrays. Without class folders, the images are those
    of the folder itself, which have no labels. Raises ValueError if there is neither, and for a class folder without
    images.
    """

    def __init__(self, path: Path):
        self.path = path
        self.classes = tuple(_subfolders(path))
        self.keys: list[str] = []
        self.labels: list[int] = []
        if not self.classes:
            self.unlabelled = (
                f"the folder '{path}' has no class folders; put the images of each class in a separate folder"
            )
            self.keys = _images(path, "", SUFFIXES) or _images(path, "", ARRAY_SUFFIXES)
            self.labels = [-1] * len(self.keys)
            if not self.keys:
                raise ValueError(self.unlabelled)
        images = [_images(path, name, SUFFIXES) for name in self.classes]
        if not any(images):
            images = [_images(path, name, ARRAY_SUFFIXES) for name in self.classes]
        for label, (name, found) in enumerate(zip(self.classes, images, strict=True)):
            if not found:
                raise ValueError(f"the class folder '{path / name}' has no images")
            self.keys.extend(found)
            self.labels.extend([label] * len(found))

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.keys)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key of the image."""
        return self.path / self.keys[index], self.keys[index]

    def label(self, index: int) -> int:
        """Returns the index of the class folder."""
        return self.labels[index]


def open_source(location: str) -> dict[str, Source]:
    """Opens a folder and returns its splits, or `all`. Raises ValueError for missing or empty folders."""
    path = Path(location).expanduser()
    if not location or not path.is_dir():
        raise ValueError(f"there is no folder '{location}'; expected folder:PATH")
    names = _subfolders(path)
    found = {split: name for split, known in SPLIT_NAMES.items() for name in names if name.lower() in known}
    # A class may be called "test": the folders are splits only if one is "train" and no other folder exists.
    if "train" in found and len(found) == len(names):
        return {split: Folder(path / name) for split, name in found.items()}
    return {"all": Folder(path)}


def _subfolders(path: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def _images(path: Path, name: str, suffixes: Container[str]) -> list[str]:
    found = []
    for folder, subfolders, files in os.walk(path / name):
        subfolders[:] = sorted(each for each in subfolders if not each.startswith("."))
        inside = Path(folder).relative_to(path)
        images = (file for file in files if Path(file).suffix.lower() in suffixes and not file.startswith("."))
        found += [(inside / file).as_posix() for file in images]
    return sorted(found)
