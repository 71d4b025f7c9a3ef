"""Pictures named one by one in a list, each with its label: what CSV and JSON-lines files come to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.data import EncodedSource, Label, Source
from vitkit.data.sources._columns import SPLITS, choose, number


@dataclass(frozen=True)
class Row:
    """One line of a list: its number in the file, counted from 1, and its fields."""

    line: int
    fields: Mapping[str, Any]


class Listing(EncodedSource):
    """The pictures of a list, in its order; a key is a picture's path as the list has it, relative to the list."""

    def __init__(self, folder: Path, keys: list[str], labels: list[Label], classes: tuple[str, ...]):
        self.folder = folder
        self.keys = keys
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.keys)

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """The file of a picture, or its bytes, and its key."""
        return self.folder / self.keys[index], self.keys[index]

    def label(self, index: int) -> Label:
        """The class number, or several."""
        return self.labels[index]


def listed(path: Path, rows: list[Row], columns: list[str], chosen: Mapping[str, str]) -> dict[str, Source]:
    """The sources of a list by the values of its column `split`, or the whole as `all`.

    Class names are those in the list, or the lines of a `classes.txt` beside it. Raises ValueError that names the line
    for a picture that is not there and for whatever `columns.number` refuses.
    """
    if not rows:
        raise ValueError(f"{path.name} lists no pictures")
    image, label = (choose(kind, columns, chosen, path.name) for kind in ("image", "label"))
    keys = []
    for row in rows:
        key = row.fields.get(image)
        if not isinstance(key, str) or not key or not os.path.isfile(path.parent / key):
            raise ValueError(f"{path.name}, line {row.line}: there is no picture {str(key or '')[:80]!r}")
        keys.append(key)
    names = path.parent / "classes.txt"
    text = names.read_text(encoding="utf-8") if names.is_file() else ""
    given = tuple(line.strip() for line in text.splitlines() if line.strip()) or None
    values = [row.fields.get(label) for row in rows]
    classes, labels = number(values, given, lambda index: f"{path.name}, line {rows[index].line}")
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
        raise ValueError(f"{name}, line {row.line}: the split is {value[:40]!r}; it is train, val or test")
    return SPLITS[value.lower()]
