"""Base of the CSV and JSON-lines sources, which list the images and labels in a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.data import Source
from vitkit.data.sources import SPLITS
from vitkit.data.sources._columns import Labels, Table, choose, encode, label_columns
from vitkit.regular import problem, read_text


@dataclass(frozen=True)
class Row:
    """One row of a table: its fields, and its line number in the file, counted from 1."""

    line: int
    fields: Mapping[str, Any]


class Listing(Table):
    """The images listed in a table, in the order of the rows. The key of an image is its path relative to the table."""

    def __init__(self, folder: Path, keys: list[str], rows: Labels, skipped: tuple[str, ...] = ()):
        super().__init__(rows)
        self.skipped = skipped
        self.folder = folder
        self.keys = keys

    def encoded(self, index: int) -> tuple[bytes | Path, str]:
        """Returns the path or the bytes of an image file, and the key that names the image in messages."""
        return self.folder / self.keys[index], self.keys[index]


def listing_splits(path: Path, rows: list[Row], columns: list[str], chosen: Mapping[str, str]) -> dict[str, Source]:
    """Returns one source per value of the `split` column, or the single split `all` if there is no such column.

    Class names are those in the list, or the lines of a `classes.txt` in the same folder. There are no classes without
    a label column, or if it is empty. A row whose file is missing is left out and named in `Source.skipped`. Raises
    ValueError that names the line if every file is missing, and for an invalid label or target.
    """
    named, unlabelled = label_columns(columns, chosen, path.name)
    if not rows:
        raise ValueError(f"{path.name} lists no images" if columns else unlabelled)
    image = choose("image", columns, chosen, path.name)
    rows, skipped = _existing(path, rows, image)
    keys = [row.fields[image] for row in rows]
    names = path.parent / "classes.txt"
    text = read_text(names) if names.exists() else ""
    given = tuple(line.strip() for line in text.splitlines() if line.strip()) or None
    several = [tuple(row.fields.get(name) for name in named) for row in rows]
    values = [None if not each else each[0] if len(named) == 1 else each for each in several]
    where = [f"{path.name}, line {row.line}" for row in rows]
    unlabelled = unlabelled or f"{path.name}: no image has a label in the column '{', '.join(named)}'"
    labels = encode(
        *(values, named, given, where.__getitem__),
        targets="target" in chosen,
        unlabelled=unlabelled,
        missing=(None, ""),
    )
    parts: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        parts.setdefault(_split(row, columns, chosen, path.name), []).append(index)
    return {
        split: Listing(path.parent, [keys[each] for each in part], labels.part(part), skipped)
        for split, part in parts.items()
    }


def _existing(path: Path, rows: list[Row], image: str) -> tuple[list[Row], tuple[str, ...]]:
    """Returns the rows whose image file exists, and a message for each other row."""
    found, skipped = [], []
    for row in rows:
        key = row.fields.get(image)
        wrong = problem(path.parent / key) if isinstance(key, str) and key else "does not exist"
        shown = str(key or "")[:80]
        if not wrong:
            found.append(row)
        else:
            skipped.append(f"{path.name}, line {row.line}: the image file {shown!r} {wrong}")
    if not found:
        raise ValueError(skipped[0])
    return found, tuple(skipped)


def _split(row: Row, columns: list[str], chosen: Mapping[str, str], name: str) -> str:
    if "split" not in chosen and "split" not in columns:
        return "all"
    value = str(row.fields.get(choose("split", columns, chosen, name)))
    if value.lower() not in SPLITS:
        raise ValueError(f"{name}, line {row.line}: the split is {value[:40]!r}; expected train, val or test")
    return SPLITS[value.lower()]
