"""Finds the columns and labels in tables of images (CSV, JSON lines, Parquet, Hugging Face Hub)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vitkit.config import nearest
from vitkit.data import Label, Source

#: Names of the image, label and split columns, in order of preference.
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "img", "path", "file", "file_name", "filename", "image_path", "filepath", "picture", "photo"),
    "label": ("label", "labels", "class", "classes", "fine_label", "category", "target", "cls"),
    "split": ("split",),
}


def parse(location: str) -> tuple[str, dict[str, str]]:
    """Splits `images.csv#image=file,label=species` into the location and the selected columns.

    Raises ValueError for an unknown kind of column.
    """
    path, mark, text = location.rpartition("#")
    if not mark or "=" not in text:
        return location, {}
    parts = [part.partition("=") for part in text.split(",")]
    chosen = {kind: column for kind, _, column in parts}
    for kind in chosen:
        if kind not in NAMES:
            raise ValueError(
                f"unknown column kind '{kind}' in '#{text}'; expected image, label or split{nearest(kind, NAMES)}"
            )
    return path, chosen


def choose(kind: str, columns: Iterable[str], chosen: Mapping[str, str], where: str) -> str:
    """Returns the column of images, labels or splits that the location selects, or finds it by name."""
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
    )


def choose_by_type(kind: str, candidates: list[str], columns: list[str], chosen: Mapping[str, str], where: str) -> str:
    """Returns the only column in `candidates`, or chooses by name among them (or among all columns)."""
    if kind in chosen or not candidates:
        return choose(kind, columns, chosen, where)
    if len(candidates) > 1 and not any(name.lower() in NAMES[kind] for name in candidates):
        raise ValueError(f"{where} has several {kind} columns, {', '.join(candidates)}; choose one with #{kind}=COLUMN")
    return candidates[0] if len(candidates) == 1 else choose(kind, candidates, chosen, where)


def feature_type(feature: object) -> object:
    """Returns the type name of a `datasets` feature ("Image", "ClassLabel"), or None if it has none."""
    return feature.get("_type") if isinstance(feature, dict) else None


def class_names(feature: Any) -> tuple[str, ...] | None:
    """Returns the class names of a ClassLabel, or of a list of them, in any format of `datasets`."""
    inner: Any = feature[0] if isinstance(feature, list) and feature else feature
    if feature_type(inner) in ("Sequence", "List", "LargeList"):
        inner = inner["feature"]
    names = inner.get("names") if feature_type(inner) == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) else None


class MissingLabelsError(ValueError):
    """Raised for a split without any label."""


def check_labels(values: Sequence[object], where: str) -> None:
    """Raises `MissingLabelsError` if all labels are missing or -1, as in published test sets."""
    if values and all(value is None or value == -1 for value in values):
        raise MissingLabelsError(f"{where}: no image has a label")


def open_labelled(splits: Mapping[str, Callable[[], Source]]) -> dict[str, Source]:
    """Opens the splits and skips those without labels. Raises ValueError if no split has labels."""
    found, missing = {}, None
    for name, open_split in splits.items():
        try:
            found[name] = open_split()
        except MissingLabelsError as error:
            missing = error
    if missing is not None and not found:
        raise missing
    return found


def encode_labels(
    values: Sequence[Any], names: tuple[str, ...] | None, row: Callable[[int], str]
) -> tuple[tuple[str, ...], list[Label]]:
    """Returns the class names and the label of each row as class indices.

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
                raise ValueError(f"{row(index)}: class index {label} is out of range for {len(names)} classes")
        each = [indices[label] if isinstance(label, str) else label for label in labels]
        found.append(tuple(sorted(set(each))) if several else each[0])
    return names, found


def _names(lists: Sequence[Sequence[int | str]], row: Callable[[int], str]) -> tuple[str, ...]:
    kinds = {type(label): index for index, labels in enumerate(lists) for label in labels}
    if len(kinds) > 1:
        raise ValueError(f"{row(min(kinds.values()))}: labels mix class indices and names")
    every = {label for labels in lists for label in labels}
    if kinds.keys() == {str}:
        return tuple(sorted(map(str, every)))
    highest = max((label for label in every if isinstance(label, int)), default=-1)
    if highest > 10_000_000:
        raise ValueError(f"the highest label is {highest}; labels are class indices, counted from 0")
    return tuple(str(each) for each in range(highest + 1))
