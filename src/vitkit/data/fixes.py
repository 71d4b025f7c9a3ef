"""Corrections of a dataset: a CSV file lists images to relabel or to drop, by their keys, for any data source.

The columns are `key`, `label`, `action` (`relabel` or `drop`) and `split`. Only `key` and one of `label` and `action`
are needed. The report of a model saves this file as `fixes.csv`, and the option `--fix` applies it when the data are
opened. Corrections do not move images between the training and the validation split.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

import numpy as np

from vitkit.config import nearest
from vitkit.data import Example, Label, ReadOptions, Relabelled, Source, Subset, Unlabelled
from vitkit.data.sources import SPLITS
from vitkit.data.sources.csv import read_rows
from vitkit.regular import problem
from vitkit.text import from_spreadsheet_cell, plural, printable, shortened, utf8_text

ACTIONS = ("relabel", "drop")
SEPARATOR = "|"  # separates several labels or numbers, as in CSV data


@dataclass(frozen=True, kw_only=True)
class Fix:
    """A correction of one image: its key and its new label. An image whose label is None is dropped.

    `label` is a class name, several names separated by "|" or as a JSON list, or the numbers of a regression. `split`
    restricts the correction to a published split (train, val or test); if it is empty, the key alone selects the image.
    """

    key: str
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Part:
    """A source to correct. `splits` are the values of `Fix.split` that select it; if empty, all values do."""

    source: Source
    splits: frozenset[str] = frozenset()

    def selected(self, fix: Fix) -> bool:
        """Returns whether a correction applies to this source."""
        return not self.splits or fix.split in ("", "all") or fix.split in self.splits


class Fixed(Source):
    """A source with corrected labels and without dropped images. The order of the images does not change.

    `labels` and `targets` map indices of the source to new labels and targets. `dropped` are the indices of dropped
    images. `relabelled` is the number of images whose label differs from the original. `missing` are the keys of
    corrections that match no image.
    """

    def __init__(
        self,
        source: Source,
        labels: Mapping[int, Label],
        targets: Mapping[int, tuple[float, ...]],
        dropped: Iterable[int],
        missing: tuple[str, ...] = (),
    ):
        self.source = source
        self.classes, self.regression, self.unlabelled = source.classes, source.regression, source.unlabelled
        self.skipped, self.lost = source.skipped, source.lost
        self.dropped = frozenset(dropped)
        self.indices = np.array([index for index in range(len(source)) if index not in self.dropped], dtype=int)
        self._labels = {index: label for index, label in labels.items() if index not in self.dropped}
        self._targets = {index: values for index, values in targets.items() if index not in self.dropped}
        changed = sum(source.label(index) != label for index, label in self._labels.items())
        self.relabelled = changed + sum(source.targets(index) != values for index, values in self._targets.items())
        self.unchanged = len(self._labels) + len(self._targets) - self.relabelled
        self.missing = missing

    def __len__(self) -> int:
        """Returns the number of images that are not dropped."""
        return int(self.indices.shape[0])

    def read(self, index: int, **options: Unpack[ReadOptions]) -> Example:
        """Returns an example of the source with its corrected label or targets."""
        targets = self.targets(index) if self.regression else ()
        example = self.source.read(int(self.indices[index]), **options)
        return replace(example, label=self.label(index), targets=targets)

    def label(self, index: int) -> Label:
        """Returns the corrected label."""
        inner = int(self.indices[index])
        return self._labels[inner] if inner in self._labels else self.source.label(inner)

    def targets(self, index: int) -> tuple[float, ...]:
        """Returns the corrected targets."""
        inner = int(self.indices[index])
        return self._targets[inner] if inner in self._targets else self.source.targets(inner)

    def key(self, index: int) -> str:
        """Returns the key of an image of the source."""
        return self.source.key(int(self.indices[index]))


def read_fixes(path: str | os.PathLike[str]) -> tuple[Fix, ...]:
    """Reads corrections from a CSV file. Raises ValueError with the line number of an invalid row.

    If the file has no column `action`, every row is a new label.
    """
    file = Path(path).expanduser()
    if wrong := problem(file):
        raise ValueError(f"the file of corrections '{path}' {wrong}; expected a CSV file such as fixes.csv")
    columns, rows = read_rows(file, strip=False)
    if "key" not in columns or not {"label", "action"} & set(columns):
        raise ValueError(
            f"{file.name} has the columns {', '.join(map(printable, columns)) or 'none'}; expected the "
            "columns key, label, action (relabel or drop) and split, as in a fixes.csv of a report"
        )
    found: dict[tuple[str, str], tuple[Fix, int]] = {}
    for row in rows:
        fix = _fix({name: from_spreadsheet_cell(str(cell)) for name, cell in row.fields.items()}, file.name, row.line)
        known, line = found.setdefault((fix.key, fix.split), (fix, row.line))
        if known != fix:
            raise ValueError(
                f"{file.name}, lines {line} and {row.line}, have different corrections of the image "
                f"'{printable(fix.key)}'; keep one of them"
            )
    if not found:
        raise ValueError(f"{file.name} lists no corrections; expected one image per line after the header")
    return tuple(fix for fix, _ in found.values())


def _fix(cells: Mapping[str, str], name: str, line: int) -> Fix:
    action = cells.get("action", "").strip().lower() or "relabel"
    split = cells.get("split", "").strip().lower()
    if action not in ACTIONS:
        raise ValueError(f"{name}, line {line}: the action is '{printable(action)}'; expected {' or '.join(ACTIONS)}")
    if split not in ("", "all", *SPLITS):
        raise ValueError(
            f"{name}, line {line}: the split is '{printable(split)}'; expected train, val, test or nothing"
        )
    if not cells["key"]:
        raise ValueError(f"{name}, line {line}: the key is empty; expected the key of an image")
    label = cells.get("label", "")
    if action == "relabel" and not label.strip():
        raise ValueError(f"{name}, line {line}: the label is empty; give a label, or the action drop")
    return Fix(key=cells["key"], label=None if action == "drop" else label, split=SPLITS.get(split, split))


def fixed_splits(training: Source, validation: Source, fixes: Sequence[Fix]) -> tuple[Source, Source]:
    """Returns the corrected training and validation images of a run. Raises ValueError as `apply` does."""
    if not fixes:
        return training, validation
    one, other = (each.source if isinstance(each, Unlabelled) else each for each in (training, validation))
    if isinstance(one, Subset) and isinstance(other, Subset) and one.source is other.source:
        # Keys are unique in a random split of one source, so `Fix.split` is not needed.
        parts = [Part(training), Part(validation)]
    else:
        parts = [Part(training, frozenset(["train"])), Part(validation, frozenset(["val", "test"]))]
    fixed = apply(parts, fixes)
    return fixed[0], fixed[1]


def apply(parts: Sequence[Part], fixes: Sequence[Fix]) -> list[Fixed]:
    """Returns the sources with their corrections.

    The type of a label does not change: one class, several classes, or numbers of a regression. In a source without
    labels, new labels are ignored. Raises ValueError for an unknown class, for a key that selects images in two
    sources, if no correction matches an image, and if all images of a source are dropped.
    """
    wanted = {fix.key for fix in fixes}
    places: dict[str, list[tuple[int, int]]] = {}
    for number, part in enumerate(parts):
        for index in range(len(part.source)):
            if (key := utf8_text(part.source.key(index))) in wanted:
                places.setdefault(key, []).append((number, index))
    changes: list[tuple[dict[int, Label], dict[int, tuple[float, ...]], set[int]]] = [({}, {}, set()) for _ in parts]
    missing = []
    for fix in fixes:
        found = [(number, index) for number, index in places.get(fix.key, []) if parts[number].selected(fix)]
        if not found:
            missing.append(fix.key)
        elif len({number for number, _ in found}) > 1:
            raise ValueError(
                f"the image '{printable(fix.key)}' of the corrections is in the training and in the evaluation images; "
                "set its split to train or val"
            )
        for number, index in found:
            _change(parts[number].source, index, fix, changes[number])
    if len(missing) == len(fixes):
        example = next((parts[0].source.key(index) for index in range(len(parts[0].source))), "")
        raise ValueError(
            f"none of the {plural(len(fixes), 'correction')} matches an image, such as '{printable(missing[0])}'; the "
            f"keys of this data are like '{printable(example)}'"
        )
    results = [Fixed(part.source, *change, missing=tuple(missing)) for part, change in zip(parts, changes, strict=True)]
    if any(not len(each) for each in results):
        raise ValueError("the corrections drop all images of a split; keep at least one")
    return results


def _change(
    source: Source, index: int, fix: Fix, change: tuple[dict[int, Label], dict[int, tuple[float, ...]], set[int]]
) -> None:
    labels, targets, dropped = change
    if fix.label is None:
        dropped.add(index)
    elif source.regression:
        targets[index] = _numbers(fix, source.classes)
    elif source.classes:
        labels[index] = _label(fix, source, index)


def _numbers(fix: Fix, names: tuple[str, ...]) -> tuple[float, ...]:
    try:
        values = tuple(float(text) for text in (fix.label or "").split(SEPARATOR))
    except ValueError:
        values = ()
    if len(values) != len(names) or not all(map(math.isfinite, values)):
        raise ValueError(
            f"the correction of '{printable(fix.key)}' is '{printable(fix.label)}'; expected "
            f"{plural(len(names), 'number')} ({', '.join(map(printable, names[:3]))}), separated by {SEPARATOR}"
        )
    return values


def _label(fix: Fix, source: Source, index: int) -> Label:
    names = [fix.label or ""] if fix.label in source.classes else split_names(fix.label or "")
    unknown = [name for name in names if name not in source.classes]
    if unknown:
        raise ValueError(
            f"the correction of '{printable(fix.key)}' has the unknown class '{printable(unknown[0])}'"
            f"{nearest(unknown[0], source.classes[:100])}"
        )
    found = tuple(sorted({source.classes.index(name) for name in names}))
    if isinstance(source.label(index), tuple):
        return found
    if len(found) != 1:
        raise ValueError(
            f"the correction of '{printable(fix.key)}' has {plural(len(found), 'label')}, but images of this data have "
            "one label"
        )
    return found[0]


def split_names(text: str) -> list[str]:
    """Splits text in the format of `join_names` into class names."""
    if text.startswith("["):
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    return [text] if SEPARATOR not in text else [part.strip() for part in text.split(SEPARATOR) if part.strip()]


def join_names(names: Sequence[str], classes: Sequence[str]) -> str:
    """Joins class names with "|".

    Returns a JSON list instead if there are no names, or if the text would be ambiguous because a name contains "|",
    for example.
    """
    if len(names) == 1:
        return names[0]
    text = SEPARATOR.join(names)
    unclear = not names or text in classes or any(SEPARATOR in each or each != each.strip() for each in names)
    return json.dumps(list(names)) if unclear or text.startswith("[") else text


def summary(*sources: Source) -> str:
    """Returns a summary of the corrections of the given sources, or an empty string if there are none."""
    found = [each for each in map(_fixed, sources) if each is not None]
    if not found:
        return ""
    relabelled, dropped = sum(each.relabelled for each in found), sum(len(each.dropped) for each in found)
    unchanged, missing = sum(each.unchanged for each in found), list(found[0].missing)
    text = f"corrections: {plural(relabelled, 'label')} changed, {plural(dropped, 'image')} dropped"
    text += f", {plural(unchanged, 'label')} already correct" if unchanged else ""
    return text + (f"; {plural(len(missing), 'key')} not in the data: {shortened(missing)}" if missing else "")


def _fixed(source: Source) -> Fixed | None:
    inner: object = source
    while not isinstance(inner, Fixed | None):
        inner = getattr(inner, "source", None)
    return inner


def original_names(source: Source) -> dict[int, str]:
    """Maps class indices to the class names of the original data, from which a model's names may differ."""
    inner = getattr(source, "source", None)
    if not isinstance(inner, Source):
        return dict(enumerate(source.classes))
    names = original_names(inner)
    if not isinstance(source, Relabelled):  # images are selected, but classes are unchanged
        return names
    return {source.indices[index]: name for index, name in names.items() if source.indices[index] >= 0}
