"""Sources whose images and labels are listed in a table, for CSV and JSON-lines files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.data import EncodedSource, Label, Source
from vitkit.data.sources import SPLITS
from vitkit.data.sources._columns import choose, encode_labels


@dataclass(frozen=True)
class Row:
    """One row of a table: its line number in the file, counted from 1, and its fields."""

    line: int
    fields: Mapping[str, Any]


class Listing(EncodedSource):
    """The images of a table, in its order. The key of an image is its path relative to the table."""

    def __init__(self, folder: Path, keys: list[str], labels: list[Label], classes: tuple[str, ...]):
        self.folder = folder
        self.keys = keys
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.keys)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key of the image."""
        return self.folder / self.keys[index], self.keys[index]

    def label(self, index: int) -> Label:
        """Returns the class index, or a tuple of class indices."""
        return self.labels[index]


def listing_splits(path: Path, rows: list[Row], columns: list[str], chosen: Mapping[str, str]) -> dict[str, Source]:
    """Returns one source per value of the `split` column, or the split `all` without such a column.

    Class names are those in the list, or the lines of a `classes.txt` in the same folder. Raises ValueError that names
    the line for a missing image and for an invalid label.
    """
    if not rows:
        raise ValueError(f"{path.name} lists no images")
    image, label = (choose(kind, columns, chosen, path.name) for kind in ("image", "label"))
    keys = []
    for row in rows:
        key = row.fields.get(image)
        if not isinstance(key, str) or not key or not os.path.isfile(path.parent / key):
            raise ValueError(f"{path.name}, line {row.line}: there is no image {str(key or '')[:80]!r}")
        keys.append(key)
    names = path.parent / "classes.txt"
    text = names.read_text(encoding="utf-8") if names.is_file() else ""
    given = tuple(line.strip() for line in text.splitlines() if line.strip()) or None
    values = [row.fields.get(label) for row in rows]
    classes, labels = encode_labels(values, given, lambda index: f"{path.name}, line {rows[index].line}")
    parts: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        parts.setdefault(_split(row, columns, chosen, path.name), []).append(index)
    return {
        split: Listing(path.parent, [keys[each] for each in part], [labels[each] for each in part], classes)
        for split, part in parts.items()
    }


def _split(row: Row, columns: list[str], chosen: Mapping[str, str], name: str) -> str:
    if "split" not in chosen and "split" not in columns:
        return "all"
    value = str(row.fields.get(choose("split", columns, chosen, name)))
    if value.lower() not in SPLITS:
        raise ValueError(f"{name}, line {row.line}: the split is {value[:40]!r}; expected train, val or test")
    return SPLITS[value.lower()]
