"""Source `webdataset:shards/train-{000..099}.tar`: tar shards with files such as 0001.jpg and 0001.cls.

The label is the class index in `.cls` (or `.cls.txt`), or the field `label` (or `cls`) in `.json`, where it may be a
list. Class names are the lines of a `classes.txt` in the same folder, else indices.
"""

import glob
import json
import re
from pathlib import Path

from vitkit.data import EncodedSource, Label, Source
from vitkit.data.sources import split_of
from vitkit.data.sources._tar import Member, index, read

SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "npy")
LABELS = ("cls", "cls.txt", "json")
MAX_LABEL = 10_000_000


class WebDataset(EncodedSource):
    """The samples of tar shards, in order. The key of an image is the shard name with the sample name.

    Without any label file the images have no labels. Raises ValueError that names the shard for an invalid shard (see
    `_tar.index`) and for a sample without label among others with labels.
    """

    def __init__(self, shards: list[Path]):
        self.images: list[tuple[Path, Member]] = []
        self.labels: list[Label] = []
        self.keys: list[str] = []
        for shard in shards:
            for key, members in index(shard).items():
                self._add(shard, key, members)
        if self.unlabelled and any(label != -1 for label in self.labels):
            raise ValueError(self.unlabelled)
        self.classes = () if self.unlabelled else _classes(shards[0].parent, self.labels)

    def _add(self, shard: Path, key: str, members: dict[str, Member]) -> None:
        image = next((members[name] for name in SUFFIXES if name in members), None)
        if image is None:
            return  # not a sample, such as a note or a checksum
        kind = next((name for name in LABELS if name in members), None)
        if kind is None:
            missing = f"{shard.name}: the sample '{key}' has no label; expected a .cls or .json file"
            self.unlabelled = self.unlabelled or missing
            self.labels.append(-1)
        else:
            self.labels.append(_label(read(shard, members[kind]), kind, f"{shard.name}: the label of '{key}'"))
        self.images.append((shard, image))
        self.keys.append(f"{shard.name}/{key}")

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""
        return read(*self.images[index]), self.keys[index]

    def label(self, index: int) -> Label:
        """Returns the class index, or a tuple of class indices."""
        return self.labels[index]


def open_source(location: str) -> dict[str, Source]:
    """Opens tar shards and returns the splits in their names, or the split `all` if a name has no split.

    Raises ValueError if there are no shards.
    """
    found = _shards(location)
    if not found:
        raise ValueError(f"no tar shards at '{location}'; expected webdataset:FOLDER or webdataset:a-{{00..99}}.tar")
    named: dict[str, list[Path]] = {}
    for shard in found:
        named.setdefault(split_of(shard.name) or "all", []).append(shard)
    if "all" in named and len(named) > 1:
        named = {"all": found}
    return {split: WebDataset(shards) for split, shards in named.items()}


def _shards(location: str) -> list[Path]:
    path = Path(location).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    names = [text for pattern in _expand(str(path)) for text in (sorted(glob.glob(pattern)) or [pattern])]
    missing = [name for name in names if not Path(name).is_file()]
    if missing and not glob.has_magic(location):
        raise ValueError(f"the tar shard '{missing[0]}' does not exist")
    return [Path(name) for name in names if name not in missing]


def _expand(text: str) -> list[str]:
    """Returns the file names in a range of shards, such as `a-{08..11}.tar`."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if match is None:
        return [text]
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= 1_000_000:
        raise ValueError(f"'{match[0]}' is not a valid range of shards; expected {{FIRST..LAST}} as in {{00..99}}")
    width = len(match[1]) if match[1].startswith("0") else 0
    numbers = [str(number).zfill(width) for number in range(first, last + 1)]
    return [name for number in numbers for name in _expand(text[: match.start()] + number + text[match.end() :])]


def _label(data: bytes, kind: str, name: str) -> Label:
    try:
        value = json.loads(data.decode("utf-8"))
    except ValueError:
        raise ValueError(f"{name} is neither a class index nor JSON") from None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    numbers = [_class_number(number, name) for number in (value if isinstance(value, list) else [value])]
    return tuple(numbers) if isinstance(value, list) else numbers[0]


def _class_number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LABEL:
        raise ValueError(f"{name} is {str(value)[:40]!r}; expected a class index, counted from 0")
    return value


def _classes(folder: Path, labels: list[Label]) -> tuple[str, ...]:
    numbers = [number for label in labels for number in ((label,) if isinstance(label, int) else label)]
    highest = max(numbers, default=-1)
    names = folder / "classes.txt"
    if not names.is_file():
        return tuple(str(number) for number in range(highest + 1))
    classes = tuple(line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip())
    if highest >= len(classes):
        raise ValueError(f"the label {highest} is out of range; classes.txt lists {len(classes)} classes")
    return classes
