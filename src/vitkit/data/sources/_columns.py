"""Finds the image and label columns of tables (CSV, JSON lines, Parquet, Hugging Face Hub) and encodes the labels."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitkit.config import nearest, once, similar
from vitkit.data import EncodedSource, Label

#: Larger labels are ids, not class indices.
MAX_LABEL = 10_000_000

#: Names of the image, label and split columns, in order of preference.
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "path", "file", "file_name", "filename", "image_path", "filepath", "picture", "photo"),
    "label": ("label", "labels", "class", "classes", "fine_label", "category", "target", "cls"),
    "target": (),  # never found by name: numbers in the label column are targets, too
    "split": ("split",),
}


@dataclass(frozen=True)
class Labels:
    """The labels of a table: class names with one label per row, or target names with their values per row.

    Without labels there are no classes, every label is -1, and `unlabelled` says what labels would need.
    """

    classes: tuple[str, ...]
    labels: list[Label]
    targets: list[tuple[float, ...]] | None = None
    unlabelled: str = ""

    def part(self, rows: Sequence[int]) -> "Labels":
        """Returns the labels of the given rows."""
        targets = None if self.targets is None else [self.targets[row] for row in rows]
        return replace(self, labels=[self.labels[row] for row in rows], targets=targets)


class Table(EncodedSource):
    """Base class of sources of encoded images whose labels or targets are in memory."""

    def __init__(self, rows: Labels):
        self.classes = rows.classes
        self.labels = rows.labels
        self.numbers = rows.targets
        self.regression = rows.targets is not None
        self.unlabelled = rows.unlabelled

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    def label(self, index: int) -> Label:
        """Returns the class index, or a tuple of class indices."""
        return self.labels[index]

    def targets(self, index: int) -> tuple[float, ...]:
        """Returns the regression targets of an image."""
        return super().targets(index) if self.numbers is None else self.numbers[index]


def parse(location: str) -> tuple[str, dict[str, str]]:
    """Splits `images.csv#image=file,label=species` into the location and the selected columns.

    Several columns of targets are joined with a comma. Raises ValueError for an unknown kind of column, and for a label
    and a target column at once.
    """
    path, mark, text = location.rpartition("#")
    if not mark or "=" not in text:
        return location, {}
    parts = [part.partition("=") for part in text.split(",")]
    chosen = once(((kind, column) for kind, _, column in parts if kind != "target"), f"the column in '#{text}' for ")
    if targets := [column for kind, _, column in parts if kind == "target"]:
        chosen["target"] = ",".join(targets)
    if {"label", "target"} <= chosen.keys():
        raise ValueError(f"'#{text}' selects a label column and a target column; select one of them")
    for kind in chosen:
        if kind not in NAMES:
            raise ValueError(
                f"unknown column kind '{kind}' in '#{text}'; expected {', '.join(NAMES)}{similar(kind, NAMES)}"
            )
    return path, chosen


def choose(kind: str, columns: Iterable[str], chosen: Mapping[str, str], where: str) -> str:
    """Returns the column of one kind, such as "image": the selected column, or one with a known name."""
    columns = list(columns)
    if kind in chosen:
        if chosen[kind] not in columns:
            raise ValueError(f"{where} has no column '{chosen[kind]}'{nearest(chosen[kind], columns)}")
        return chosen[kind]
    lower = {name.lower(): name for name in columns}
    for name in NAMES[kind]:
        if name in lower:
            return lower[name]
    raise ValueError(
        f"{where} has no {kind} column ({', '.join(NAMES[kind][:4])}, ...); its columns are "
        f"{', '.join(map(str, columns)) or 'none'}; append #{kind}=COLUMN to the location"
        + (" (#target=COLUMN for regression targets)" if kind == "label" else "")
    )


def label_columns(
    columns: Sequence[str], chosen: Mapping[str, str], where: str, candidates: Sequence[str] = ()
) -> tuple[tuple[str, ...], str]:
    """Returns the selected target columns, or else the label column.

    Without such a column the names are empty, and the second value says what labels would need.
    """
    if "target" in chosen:
        names = tuple(chosen["target"].split(","))
        return tuple(choose("target", columns, {"target": name}, where) for name in names), ""
    if not candidates and "label" not in chosen:
        try:
            return (choose("label", columns, chosen, where),), ""
        except ValueError as error:
            return (), str(error)
    return (choose_by_type("label", list(candidates), list(columns), chosen, where),), ""


def encode(
    values: Sequence[Any],
    columns: tuple[str, ...],
    names: tuple[str, ...] | None,
    row: Callable[[int], str],
    *,
    targets: bool,
    unlabelled: str,
    missing: tuple[object, ...] = (None, -1),
) -> Labels:
    """Returns the labels of a table, or its regression targets if the values are floats.

    `values` has one value per row: a label or a list of labels, or, for several `columns` of targets, a tuple with the
    value of each. `targets` takes integers as targets, too. If all labels are `missing`, the table has no labels, and
    `unlabelled` is the reason. Raises ValueError that names the row (`row(index)`) of an invalid value.
    """
    if not targets and all_missing(values, missing):
        return Labels((), [-1] * len(values), unlabelled=unlabelled)
    lists = [list(value) if isinstance(value, list | tuple) else [value] for value in values]
    if not targets and not any(isinstance(each, float) for value in lists for each in value):
        classes, labels = encode_labels(values, names, row)
        return Labels(classes, labels)
    widths = sorted({len(value) for value in lists})
    numbers = [tuple(_number(each, row, index) for each in value) for index, value in enumerate(lists)]
    if len(widths) > 1 or widths == [0]:
        raise ValueError(
            f"the rows from {row(0)} on have {' or '.join(map(str, widths))} targets; "
            "all rows must have the same number of targets, at least 1"
        )
    if len(columns) != widths[0]:
        columns = tuple(f"{columns[0]} {index}" for index in range(widths[0]))
    return Labels(columns, [()] * len(numbers), numbers)


def _number(value: object, row: Callable[[int], str], index: int) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        given = "missing" if value is None or value == "" else repr(value)[:40]
        raise ValueError(f"{row(index)}: the target is {given}; expected a finite number")
    return number


def choose_by_type(kind: str, candidates: list[str], columns: list[str], chosen: Mapping[str, str], where: str) -> str:
    """Returns the only candidate column, or chooses one of several candidates by name."""
    if kind in chosen or not candidates:
        return choose(kind, columns, chosen, where)
    if len(candidates) > 1 and not any(name.lower() in NAMES[kind] for name in candidates):
        raise ValueError(f"{where} has several {kind} columns, {', '.join(candidates)}; choose one with #{kind}=COLUMN")
    return candidates[0] if len(candidates) == 1 else choose(kind, candidates, chosen, where)


def feature_type(feature: object) -> object:
    """Returns the type name of a `datasets` feature, such as "Image" or "ClassLabel", or None if it has none."""
    return feature.get("_type") if isinstance(feature, dict) else None


def class_names(feature: Any) -> tuple[str, ...] | None:
    """Returns the class names of a ClassLabel feature, or of a list of ClassLabels, or None for other features."""
    inner: Any = feature[0] if isinstance(feature, list) and feature else feature
    if feature_type(inner) in ("Sequence", "List", "LargeList"):
        inner = inner["feature"]
    names = inner.get("names") if feature_type(inner) == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def all_missing(values: Sequence[object], missing: tuple[object, ...] = (None, -1)) -> bool:
    """Returns whether the labels of all rows are missing, as in published test sets."""
    return all(any(value is each or value == each for each in missing) for value in values)


def encode_labels(
    values: Sequence[Any], names: tuple[str, ...] | None, row: Callable[[int], str]
) -> tuple[tuple[str, ...], list[Label]]:
    """Returns the class names, and the labels of each row as class indices.

    `values` are class indices or names, or lists of them. Without `names` the classes are the sorted names, or the
    indices up to the highest. Raises ValueError that names the row (`row(index)`) for a missing label, a label of a
    wrong type and an unknown class.
    """
    several = any(isinstance(value, list | tuple) for value in values)
    lists = [value if isinstance(value, list | tuple) else [value] for value in values]
    for index, labels in enumerate(lists):
        for label in labels:
            if not isinstance(label, int | str) or isinstance(label, bool) or label == "":
                given = "none" if label is None or label == "" else repr(label)[:40]
                raise ValueError(f"{row(index)}: the label is {given}; expected a class index or name")
    if names is None:
        names = _names(lists, row)
    indices = {name: index for index, name in enumerate(names)}
    found: list[Label] = []
    for index, labels in enumerate(lists):
        for label in labels:
            if isinstance(label, str) and label not in indices:
                raise ValueError(f"{row(index)}: unknown class '{label[:40]}'{nearest(label, names[:20])}")
            if isinstance(label, int) and not 0 <= label < len(names):
                raise ValueError(f"{row(index)}: class index {label} is out of range; there are {len(names)} classes")
        each = [indices[label] if isinstance(label, str) else label for label in labels]
        found.append(tuple(sorted(set(each))) if several else each[0])
    return names, found


def _names(lists: Sequence[Sequence[int | str]], row: Callable[[int], str]) -> tuple[str, ...]:
    kinds = {type(label): index for index, labels in enumerate(lists) for label in labels}
    if len(kinds) > 1:
        raise ValueError(
            f"{row(min(kinds.values()))}: some labels are class indices and others are class names; use one kind"
        )
    every = {label for labels in lists for label in labels}
    if kinds.keys() == {str}:
        return tuple(sorted(map(str, every)))
    highest = max((label for label in every if isinstance(label, int)), default=-1)
    if highest > MAX_LABEL:
        first = next(index for index, labels in enumerate(lists) if highest in labels)
        raise ValueError(
            f"{row(first)}: the label is {highest}, which is too large; labels are class indices, counted from 0"
        )
    return tuple(str(each) for each in range(highest + 1))
