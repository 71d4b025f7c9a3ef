"""Data source `folder:images/`: one folder per class, optionally in split folders (images/train/daisy/1.jpg).

A folder of images without class folders is a source without labels.
"""

import os
from collections.abc import Container
from pathlib import Path, PurePath

from vitkit.data import EncodedSource, Source
from vitkit.data.sources import SPLIT_NAMES
from vitkit.images import ARRAY_SUFFIXES, SUFFIXES, Unlisted, walk
from vitkit.text import printable


class Folder(EncodedSource):
    """Images in class folders, sorted by name. The key of an image is its path relative to the folder.

    Where no class folder has image files, the images are the `.npy` arrays. Without class folders, the images are those
    of the folder itself, which have no labels. Links are followed. What is no readable file (a broken link, a named
    pipe, a folder without permission) is not part of the source, but named in `skipped`. Raises ValueError if there are
    neither class folders nor images, and for a class folder without
    images.
    """

    def __init__(self, path: Path):
        self.path = path
        names, skipped = _subfolders(path)
        self.classes = tuple(map(printable, names))
        self.keys: list[str] = []
        self.labels: list[int] = []
        if not names:
            self.unlabelled = (
                f"the folder '{path}' has no class folders; put the images of each class in a separate folder"
            )
            skipped = []  # named again below, with everything in the folder
            self.keys = _images(path, "", SUFFIXES, skipped) or _images(path, "", ARRAY_SUFFIXES, [])
            self.labels = [-1] * len(self.keys)
            if not self.keys:
                raise ValueError(self.unlabelled)
        images = [_images(path, name, SUFFIXES, skipped) for name in names]
        if not any(images):
            images = [_images(path, name, ARRAY_SUFFIXES, []) for name in names]
        for label, (name, found) in enumerate(zip(names, images, strict=True)):
            if not found:
                reason = next((f": {each}" for each in skipped if each.startswith(name)), "")
                raise ValueError(f"the class folder '{path / name}' has no images{reason}")
            self.keys.extend(found)
            self.labels.extend([label] * len(found))
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.keys)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""
        return self.path / self.keys[index], self.keys[index]

    def label(self, index: int) -> int:
        """Returns the index of the class folder."""
        return self.labels[index]


def open_source(location: str) -> dict[str, Source]:
    """Opens a folder and returns its splits, or the single split `all` if it has no split folders.

    Raises ValueError if a folder is missing or has no images.
    """
    path = Path(location).expanduser()
    if not location or not path.is_dir():
        raise ValueError(f"there is no folder '{location}'; expected folder:PATH")
    names, _ = _subfolders(path)
    found = {split: name for split, known in SPLIT_NAMES.items() for name in names if name.lower() in known}
    # A class may be called "test": the folders are splits only if one is "train" and no other folder exists.
    if "train" in found and len(found) == len(names):
        return {split: Folder(path / name) for split, name in found.items()}
    return {"all": Folder(path)}


def _subfolders(path: Path) -> tuple[list[str], list[str]]:
    """Returns the names of the subfolders, and messages for entries that are neither folders nor files."""
    names, skipped = [], []
    for name in sorted(os.listdir(path)):
        inside = path / name
        if name.startswith("."):
            continue
        if inside.is_dir():
            names.append(name)
        elif not inside.is_file():
            # Not walked: it is a single entry, which is reported with the same words.
            skipped += [_reason(path, entry) for entry in walk(str(inside)) if isinstance(entry, Unlisted)]
    return names, skipped


def _images(path: Path, name: str, suffixes: Container[str], skipped: list[str]) -> list[str]:
    """Returns the images of a class folder as sorted keys. Messages for unreadable entries are added to `skipped`."""
    found = []
    for entry in walk(str(path / name), suffixes):
        if isinstance(entry, Unlisted):
            skipped.append(_reason(path, entry))
        else:
            found.append(PurePath(entry).relative_to(path).as_posix())
    return sorted(found)


def _reason(path: Path, entry: Unlisted) -> str:
    return f"{PurePath(entry.name).relative_to(path).as_posix()}: {entry.error}"
